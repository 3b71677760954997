"""Advertising costs: files and tables of platforms become `dwh.spend`."""
