from django.db import models


class Product(models.Model):
    sku = models.CharField(max_length=32, primary_key=True)
    name = models.CharField(max_length=200)
    cents = models.IntegerField()
