"""A realistic jewelry shop: its catalog, shoppers, API calls and database, all from one seed."""
