#!/bin/sh
# Builds the Debian package into a directory (dist): build.sh [directory].
#
# VERSION is what git describe says of the tree, as Debian writes it, or
# 0.0.0~git and the commit where there is no tag. The same commit and the same Go
# make the same bytes: all times in the package are SOURCE_DATE_EPOCH, by default
# the commit's.
set -eu
cd "$(dirname "$0")/../.."
GO=${GO:-go}
out=${1:-dist}
mkdir -p "$out"
out=$(cd "$out" && pwd)

# v1.2.3-rc1-4-gabc-dirty is 1.2.3~rc1+4.gabc+dirty.
version() {
	if described=$(git describe --tags --match 'v[0-9]*' --dirty 2>/dev/null); then
		echo "$described" | sed -E 's/^v//; s/-dirty$/+dirty/; s/-([0-9]+)-(g[0-9a-f]+)/+\1.\2/; s/-/~/g'
	elif commit=$(TZ=UTC git log -1 --date=format-local:%Y%m%d%H%M%S --format=%cd.%h 2>/dev/null); then
		echo "0.0.0~git$commit$(git diff --quiet HEAD 2>/dev/null || echo +dirty)"
	else
		echo "0.0.0~git"
	fi
}
VERSION=${VERSION:-$(version)}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
ARCH=$($GO env GOARCH)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
BINARY=$work/cri-logproxy
export VERSION SOURCE_DATE_EPOCH ARCH BINARY

CGO_ENABLED=0 $GO build -trimpath -ldflags='-s -w' -o "$BINARY" ./cmd/cri-logproxy
cd deploy
unset GOOS GOARCH # nfpm runs here
$GO tool nfpm package --config deb/nfpm.yaml --packager deb --target "$out"
