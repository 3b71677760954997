# Sourced by MariaDB's image when its volume is new: an empty database for the shop, and Carat's user, who only reads it.
# `docker_process_sql` is a function of that image.
docker_process_sql <<SQL
CREATE DATABASE IF NOT EXISTS shop CHARACTER SET utf8mb4;
CREATE USER IF NOT EXISTS 'carat'@'%' IDENTIFIED BY '$(cat /run/secrets/shop_reader)';
GRANT SELECT, LOCK TABLES ON shop.* TO 'carat'@'%';
SQL
