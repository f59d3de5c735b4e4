from django.contrib import admin
from django.urls import include, path

from shop.views import imports

urlpatterns = [
    path("admin/", admin.site.urls),
    path("imports/", imports),
    path("progress/", include("celery_progress_ext.django.urls")),
]
