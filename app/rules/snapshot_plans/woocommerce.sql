-- A view for [product_facts] in woocommerce.toml: one row a product. Metal and material are the attributes with the
-- slugs metal and material; attributes that are typed into a single product (not taxonomies) are not in it.
-- Whoever makes it needs CREATE VIEW; Carat's user needs SELECT on it.

CREATE OR REPLACE VIEW wp_carat_products AS
SELECT
    product.ID AS product_id,
    (
        SELECT GROUP_CONCAT(term.name ORDER BY term.name SEPARATOR ', ')
        FROM wp_term_relationships AS has
        JOIN wp_term_taxonomy AS kind ON kind.term_taxonomy_id = has.term_taxonomy_id
        JOIN wp_terms AS term ON term.term_id = kind.term_id
        WHERE has.object_id = product.ID AND kind.taxonomy = 'product_cat'
    ) AS section,
    (
        SELECT GROUP_CONCAT(term.name ORDER BY term.name SEPARATOR ', ')
        FROM wp_term_relationships AS has
        JOIN wp_term_taxonomy AS kind ON kind.term_taxonomy_id = has.term_taxonomy_id
        JOIN wp_terms AS term ON term.term_id = kind.term_id
        WHERE has.object_id = product.ID AND kind.taxonomy = 'pa_material'
    ) AS material,
    (
        SELECT GROUP_CONCAT(term.name ORDER BY term.name SEPARATOR ', ')
        FROM wp_term_relationships AS has
        JOIN wp_term_taxonomy AS kind ON kind.term_taxonomy_id = has.term_taxonomy_id
        JOIN wp_terms AS term ON term.term_id = kind.term_id
        WHERE has.object_id = product.ID AND kind.taxonomy = 'pa_metal'
    ) AS metal
FROM wp_posts AS product
WHERE product.post_type = 'product';
