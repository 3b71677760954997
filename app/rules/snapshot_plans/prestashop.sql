-- A view for [product_facts] in prestashop.toml: one row a product, its features by the names they have in the shop.
-- Whoever makes it needs CREATE VIEW; Carat's user needs SELECT on it.

CREATE OR REPLACE VIEW ps_carat_products AS
SELECT
    product.id_product,
    category.name AS section,
    (
        SELECT GROUP_CONCAT(value.value ORDER BY value.value SEPARATOR ', ')
        FROM ps_feature_product AS has
        JOIN ps_feature_lang AS feature ON feature.id_feature = has.id_feature AND feature.id_lang = 1
        JOIN ps_feature_value_lang AS value ON value.id_feature_value = has.id_feature_value AND value.id_lang = 1
        WHERE has.id_product = product.id_product AND feature.name = 'Material'
    ) AS material,
    (
        SELECT GROUP_CONCAT(value.value ORDER BY value.value SEPARATOR ', ')
        FROM ps_feature_product AS has
        JOIN ps_feature_lang AS feature ON feature.id_feature = has.id_feature AND feature.id_lang = 1
        JOIN ps_feature_value_lang AS value ON value.id_feature_value = has.id_feature_value AND value.id_lang = 1
        WHERE has.id_product = product.id_product AND feature.name = 'Metal'
    ) AS metal
FROM ps_product_shop AS product
LEFT JOIN ps_category_lang AS category
    ON category.id_category = product.id_category_default AND category.id_shop = 1 AND category.id_lang = 1
WHERE product.id_shop = 1;
