from django.contrib import admin
from django.urls import path

from shop.views import imports

urlpatterns = [
    path("admin/", admin.site.urls),
    path("imports/", imports),
]
