"""The shop's pages."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.decorators import login_required
from django.http import JsonResponse
from django.urls import path

from .models import Order


@login_required
def orders(request):
    if request.method == "POST":
        Order.objects.create(user=request.user, item=request.POST["item"])
    mine = Order.objects.filter(user=request.user).order_by("pk")
    return JsonResponse({"orders": [order.item for order in mine]})


urlpatterns = [
    path("admin/", admin.site.urls),
    path("orders/", orders),
]
