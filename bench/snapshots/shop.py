"""The table of the benchmark: rows of eight columns in a real MariaDB, of which one in a hundred changes."""

from tests.support.mariadb import MariaDB

COLUMNS = ("id", "sku", "title", "section", "price", "quantity", "weight_g", "updated_at")
QUERY = f"SELECT {', '.join(COLUMNS)} FROM big ORDER BY id"


def make(server: MariaDB, rows: int) -> None:
    server.execute(
        "CREATE TABLE shop.big (id BIGINT UNSIGNED PRIMARY KEY, sku VARCHAR(32) NOT NULL, title VARCHAR(120), "
        "section VARCHAR(32), price DECIMAL(10, 2), quantity INT, weight_g DOUBLE, updated_at DATETIME)",
        "USE shop",
        "INSERT INTO big SELECT seq, CONCAT('SKU-', seq), "
        "CONCAT('Aurora ring no. ', seq * 7919 % 1000003, ' of gold'), "
        "ELT(1 + seq % 6, 'rings', 'earrings', 'necklaces', 'bracelets', 'watches', 'charms'), "
        "(seq * 7919 % 100000) / 100, NULLIF(seq % 40, 39), (seq % 9999) / 10, "
        f"'2026-01-01' + INTERVAL seq SECOND FROM seq_1_to_{rows}",
    )


def change(server: MariaDB, rows: int) -> None:
    """0.8 % of the rows change in one of three columns, 0.1 % go, as many come: scattered over the table."""
    server.execute(
        "USE shop",
        "UPDATE big SET quantity = COALESCE(quantity, 0) + 1 WHERE id % 250 = 7",
        "UPDATE big SET price = price + 0.01 WHERE id % 500 = 11",
        "UPDATE big SET title = NULL WHERE id % 500 = 13",
        "DELETE FROM big WHERE id % 1000 = 3",
        f"INSERT INTO big SELECT id + {rows}, sku, title, section, price, quantity, weight_g, updated_at FROM big "
        f"WHERE id % 1000 = 4 AND id <= {rows}",
    )
