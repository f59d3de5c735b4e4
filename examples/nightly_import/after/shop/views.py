from django.conf import settings
from django.contrib.admin.views.decorators import staff_member_required
from django.shortcuts import render

from shop.tasks import start_import


@staff_member_required
def imports(request):
    job = start_import(settings.PRICE_LIST) if request.method == "POST" else None
    return render(request, "imports.html", {"job": job})
