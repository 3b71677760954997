"""A believable jewelry shop: its catalogue, shoppers, API calls and database, all from one seed."""
