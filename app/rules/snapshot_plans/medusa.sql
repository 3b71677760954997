-- Views for medusa.toml, in a MySQL copy of Medusa's tables: an order's total stands in a JSON document of another table,
-- and a refund names the order over its payment. Whoever makes them needs CREATE VIEW; Carat's user needs SELECT on them.

CREATE OR REPLACE VIEW carat_orders AS
SELECT
    placed.id,
    placed.customer_id,
    placed.created_at,
    placed.currency_code,
    CAST(JSON_VALUE(summary.totals, '$.current_order_total') AS DECIMAL(20, 6)) AS total,
    CASE
        WHEN placed.canceled_at IS NOT NULL OR placed.status = 'canceled' THEN 'canceled'
        WHEN CAST(JSON_VALUE(summary.totals, '$.paid_total') AS DECIMAL(20, 6)) > 0 THEN 'paid'
        ELSE 'open'
    END AS state
FROM `order` AS placed
LEFT JOIN order_summary AS summary
    ON summary.order_id = placed.id AND summary.version = placed.version AND summary.deleted_at IS NULL
WHERE placed.deleted_at IS NULL AND placed.is_draft_order = 0;

CREATE OR REPLACE VIEW carat_order_items AS
SELECT item.id, item.order_id, line.product_id, item.quantity, line.unit_price
FROM order_item AS item
JOIN `order` AS placed ON placed.id = item.order_id AND placed.version = item.version
JOIN order_line_item AS line ON line.id = item.item_id
WHERE item.deleted_at IS NULL;

CREATE OR REPLACE VIEW carat_refunds AS
SELECT refund.id, link.order_id, refund.amount, refund.created_at, payment.currency_code
FROM refund
JOIN payment ON payment.id = refund.payment_id
JOIN order_payment_collection AS link ON link.payment_collection_id = payment.payment_collection_id
WHERE refund.deleted_at IS NULL;
