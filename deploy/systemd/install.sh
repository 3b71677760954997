#!/bin/sh
# Installs Carat's services on this machine, or removes them. Safe to repeat: settings, secrets and data are never
# overwritten or removed.
#
#   install.sh                    from this checkout, as root
#   install.sh --no-environment   only the units and their files, not /opt/carat
#   install.sh --uninstall        keeps /etc/carat, /var/lib/carat, /var/log/carat and the user
#   DESTDIR=/some/root install.sh install into another root, for packages: files only, no user, no environment
set -eu
umask 022

here=$(cd "$(dirname "$0")" && pwd)
checkout=$(dirname "$(dirname "$here")")
root=${DESTDIR:-}
units=$root/usr/local/lib/systemd/system
sysusers=$root/usr/local/lib/sysusers.d/carat.conf
by_hand=$root/usr/local/bin/carat
settings=$root/etc/carat
opt=/opt/carat
all_units="carat-hourly.service carat-hourly.timer carat-failure@.service
    carat-collector.socket carat-collector.service carat-load.service"

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

reload() {
    if [ -z "$root" ] && [ -d /run/systemd/system ]; then
        systemctl daemon-reload
    fi
}

# Running services still use the previous environment, which a later installation removes.
restart_services() {
    if [ -z "$root" ] && [ -d /run/systemd/system ]; then
        systemctl try-restart carat-collector.service carat-load.service ||
            echo "install.sh: see journalctl -u carat-collector -u carat-load" >&2
    fi
}

# A Python that the service can reach: it cannot see home directories.
find_python() {
    for candidate in "${PYTHON:-python3}" /usr/bin/python3; do
        if "$candidate" - <<'CHECK' 2>/dev/null; then
import ensurepip, os, sys, venv
home = os.path.realpath(sys.base_prefix).startswith(("/home/", "/root/", "/run/user/"))
sys.exit(home or sys.version_info < (3, 11))
CHECK
            command -v "$candidate"
            return
        fi
    done
    fail "found no Python 3.11 or later with venv outside the home directories. Install one (Debian, Ubuntu:" \
        "apt-get install python3-venv; Fedora: dnf install python3), or name it: make install-systemd PYTHON=python3.12"
}

# Each installation has its own directory, and /opt/carat/current points to the one in use: a run in progress keeps its
# files, and an installation that fails changes nothing.
install_environment() {
    python=$(find_python)
    release=$opt/release-$(date -u +%Y%m%dT%H%M%S)
    source=$(mktemp -d)
    trap 'rm -rf "$source" "$release"' EXIT
    trap 'exit 1' HUP INT TERM
    echo "Installing Carat into $release; this takes a few minutes"
    mkdir -p "$opt"
    "$python" -m venv "$release"
    pip="$release/bin/python -m pip install --quiet --disable-pip-version-check"
    $pip --require-hashes -r "$checkout/requirements.lock"
    cp -R "$checkout/app" "$checkout/metabase" "$checkout/pyproject.toml" "$checkout/README.md" "$source"  # a build leaves files behind
    $pip --no-deps --no-build-isolation "$source"
    (cd / && "$release/bin/carat" --version)

    previous=$(readlink "$opt/current" || true)
    ln -sfn "$release" "$opt/next"
    mv -T "$opt/next" "$opt/current"
    trap - EXIT
    rm -rf "$source"
    for old in "$opt"/release-*; do
        case $old in "$release" | "$previous") ;; *) rm -rf "$old" ;; esac
    done
}

install_files() {
    install -d -m 0755 "$units" "$(dirname "$sysusers")" "$(dirname "$by_hand")" "$settings"
    for unit in $all_units; do
        install -m 0644 "$here/$unit" "$units"
    done
    install -m 0644 "$here/carat.sysusers" "$sysusers"
    install -m 0755 "$here/carat" "$by_hand"
    install -m 0644 "$here/on-failure.example" "$settings"
    install -d -m 0700 "$settings/credentials"
    [ -e "$settings/carat.env" ] || install -m 0600 "$here/carat.env.example" "$settings/carat.env"
    [ -n "$root" ] || systemd-sysusers "$sysusers"
}

uninstall() {
    if [ -z "$root" ] && [ -d /run/systemd/system ]; then
        for unit in carat-hourly.timer carat-collector.socket carat-collector.service carat-load.service; do
            systemctl disable --quiet --now "$unit" 2>/dev/null || true
        done
        systemctl stop carat-hourly.service 2>/dev/null || true
        systemctl reset-failed 'carat-*' 2>/dev/null || true
    fi
    for unit in $all_units; do
        rm -f "$units/$unit"
    done
    rm -f "$sysusers" "$by_hand" "$settings/on-failure.example"
    if [ -z "$root" ]; then
        rm -rf "$opt/current" "$opt"/release-*
        rmdir "$opt" 2>/dev/null || true
    fi
    reload
    echo "Carat no longer runs here. Kept: /etc/carat, /var/lib/carat, /var/log/carat and the user carat"
}

action=install
environment=yes
for option; do
    case $option in
        --no-environment) environment=no ;;
        --uninstall) action=uninstall ;;
        *) fail "unknown option $option. There are --no-environment and --uninstall" ;;
    esac
done
[ -z "$root" ] || environment=no
[ -n "$root" ] || [ "$(id -u)" = 0 ] || fail "needs root: sudo make $action-systemd"

if [ "$action" = uninstall ]; then
    uninstall
    exit
fi
[ "$environment" = no ] || install_environment
install_files
reload
restart_services
cat <<'NEXT'
Installed. Put the secrets into /etc/carat/credentials and look at /etc/carat/carat.env first. Then:
  sudo systemctl enable --now carat-hourly.timer    # run every hour from now on
  journalctl -u carat-hourly -f                     # follow the output of the runs
To collect calls over HTTP, put write keys into /etc/carat/credentials/write_keys and run:
  sudo systemctl enable --now carat-collector
NEXT
