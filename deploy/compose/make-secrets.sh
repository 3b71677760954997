#!/bin/sh
# Writes the secrets of the stack, random ones, into the directory secrets/ beside this file. Existing files are kept.
# Only the owner of the directory can enter it; the files are readable in there, because each container reads its own
# as a user of its own.
set -eu
umask 077
cd "$(dirname "$0")"
mkdir -p secrets
chmod 0700 secrets

secret() {
    od -An -tx1 -N24 /dev/urandom | tr -d ' \n'
}

# write NAME: stores what it reads, unless there is such a file
write() {
    if [ -e "secrets/$1" ]; then
        cat >/dev/null
        return
    fi
    cat >"secrets/$1.new"
    chmod 0644 "secrets/$1.new"
    mv "secrets/$1.new" "secrets/$1"
    echo "wrote secrets/$1"
}

for name in clickhouse_carat clickhouse_reader mariadb_root metabase_db metabase_encryption_key shop_reader write_keys; do
    secret | write "$name"
done

sha256() {
    printf %s "$(cat "secrets/$1")" | sha256sum | cut -d ' ' -f 1
}

sed -e "s/@carat@/$(sha256 clickhouse_carat)/" -e "s/@reader@/$(sha256 clickhouse_reader)/" clickhouse/users.xml.in |
    write clickhouse_users.xml
printf 'clickhouse://carat:%s@clickhouse:8123/' "$(cat secrets/clickhouse_carat)" | write warehouse
printf 'clickhouse://reader:%s@clickhouse:8123/' "$(cat secrets/clickhouse_reader)" | write warehouse_reader
printf 'mysql://carat:%s@mariadb:3306/shop' "$(cat secrets/shop_reader)" | write shop_db_of_the_stack
: | write shop_db # no snapshots until it names a database
: | write metabase_api_key
