#!/bin/bash
# Build an image of the Dockerfile without Docker, and run the tiny preset in it: `make image`.
#
#     tools/image.sh cpu|cuda [options of `buildah build`]
#
# Needs root, and Debian's buildah and debootstrap. The base image that the Dockerfile names is made
# from Debian packages, so no registry is asked. Images lie in .gear/image; the pipeline runs there as
# user 1234, on a root that is read-only but for the checkout, /tmp and the home.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${1:-cpu}
[ $# -gt 0 ] && shift
case $target in cpu | cuda) ;; *) echo "tools/image.sh: $target: cpu or cuda" >&2; exit 2 ;; esac
for program in buildah debootstrap; do
    command -v $program > /dev/null || { echo "tools/image.sh: no $program: apt-get install buildah debootstrap" >&2; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "tools/image.sh: run it as root: debootstrap and mounts need it" >&2; exit 2; }

work=$PWD/.gear/image
mkdir -p "$work"
export BUILDAH_ISOLATION=chroot
build() { buildah --root "$work/storage" --runroot "$work/run" "$@"; }

python=$(sed -n 's/^ARG PYTHON=//p' Dockerfile)
base=docker.io/library/python:$python
if ! build inspect --type image "$base" > /dev/null 2>&1; then
    echo "base image: Debian bookworm with Python 3.11"
    rm -rf "$work/bookworm"
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates \
        bookworm "$work/bookworm" > "$work/debootstrap.log"
    container=$(build from scratch)
    build add --quiet "$container" "$work/bookworm" /
    build commit --quiet --rm "$container" "$base"
    rm -rf "$work/bookworm"
fi

echo "building gear:$target"
build build --pull-never --target "$target" --tag "gear:$target" \
    --build-arg REVISION="$(git rev-parse HEAD)" "$@" .
container=$(build from --pull-never "gear:$target")
trap 'build umount "$container" > /dev/null; build rm "$container" > /dev/null' EXIT
root=$(build mount "$container")
echo "gear:$target: $(du -sm "$root" | cut -f1) MB"

checkout=$work/checkout
rm -rf "$checkout"
cp -a "$root/gear" "$checkout"
chown -R 1234:1234 "$checkout"
mapfile -t environment < <(build inspect --format '{{range .OCIv1.Config.Env}}{{println .}}{{end}}' "$container" | sed '/^$/d')
# shellcheck disable=SC2016  # the inner shell expands these
unshare --mount --fork bash -euc '
    root=$1 checkout=$2; shift 2
    mount --bind "$root" "$root"
    mount --bind "$checkout" "$root/gear"
    for folder in tmp home/gear; do mount -t tmpfs -o mode=1777 tmpfs "$root/$folder"; done
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount -o remount,bind,ro "$root"
    inside() { chroot --userspec=1234:1234 --groups= "$root" /usr/bin/env -i "$@"; }
    ! inside "$@" touch /opt/written 2> /dev/null || { echo "the root can be written to" >&2; exit 1; }
    inside "$@" tini -g -- sh -c "cd /gear && id -u && gear preset tiny > /dev/null && dvc repro"
' image "$root" "$checkout" "${environment[@]}"
ls -l "$checkout/reports/index.html"
