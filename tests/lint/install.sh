#!/bin/sh
# SPDX-License-Identifier: MIT
# What `make install` puts in place is enough to run firn, to read its manual
# without a warning, and to build a client and a guest against.
set -eu
cd "$(dirname "$0")/../.."
d=$(mktemp -d)
trap 'rm -rf "$d"' EXIT
make -s install DESTDIR="$d" PREFIX=/usr >/dev/null 2>&1
export PKG_CONFIG_PATH="$d/usr/lib/pkgconfig" PKG_CONFIG_SYSROOT_DIR="$d"

[ "$("$d/usr/bin/firn" --version)" = "firn $(pkg-config --modversion firn)" ]
for m in "$d"/usr/share/man/man1/*.1; do
	if command -v groff >/dev/null; then
		said=$(groff -man -Tutf8 -ww -Wbreak "$m" 2>&1 >/dev/null)
		[ -z "$said" ] || { echo "$said" >&2; exit 1; }
	fi
done

cat >"$d/client.c" <<EOF
#include <firn/firn.h>
int main(void)
{
	struct firn_error e;
	struct firn *c;

	return firn_connect("/nonexistent/socket", &c, &e) == e.err ? 0 : 1;
}
EOF
cat >"$d/guest.c" <<EOF
#include <firn/firn_guest.h>
int main(void)
{
	return firn_version() == -38 ? 0 : 1; /* no guest: ENOSYS */
}
EOF
# shellcheck disable=SC2046
cc -Wall -Wextra -Werror "$d/client.c" -o "$d/client" \
    $(pkg-config --cflags --libs firn)
LD_LIBRARY_PATH="$d/usr/lib" "$d/client"
# shellcheck disable=SC2046
clang++ -x c++ -Wall -Wextra -Werror "$d/client.c" -o "$d/client" \
    $(pkg-config --cflags --libs firn)
# Other compilers of C++ take nothing that is C's alone.
clang++ -x c++ -Wall -Wextra -Werror -pedantic-errors -fsyntax-only \
    "-I$d/usr/include" "$d/client.c" "$d/guest.c"
# And older C is C too.
gcc -std=c99 -Wall -Wextra -Werror -pedantic-errors -fsyntax-only \
    "-I$d/usr/include" "$d/client.c" "$d/guest.c"
for cc in gcc musl-gcc; do
	$cc -static "-I$d/usr/include" "$d/guest.c" -o "$d/guest" \
	    "-L$d/usr/lib" -lfirn-guest
	"$d/guest"
done
