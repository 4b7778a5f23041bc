# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh disable=SC2154
# Sourced after common.sh: what a tool says of the series and not of the base.

base=$(base_commit)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# touched COMMIT PATHSPEC...: the files of the series that COMMIT has
touched() {
	_commit=$1
	shift
	git -C "$linux" diff --name-only "$base" "$branch" -- "$@" | while read -r _f; do
		! git -C "$linux" cat-file -e "$_commit:$_f" 2>/dev/null || echo "$_f"
	done
}
objects() { touched "$1" '*.c' ':!tools' | sed 's/c$/o/' | tr '\n' ' '; }

# Messages about a file, without what changes when the file gets longer.  Sparse
# gives an imbalance the place of the last inline function before it.
plain() {
	sed -nE "s|^($out/src/\|\./)||; s/ line [0-9]+/ line N/g
		s/^.*: (warning: context imbalance)/function.c: \1/; /note: in included file/d
		s/^([^ ]+\.(c|h|rst|cocci)):([0-9]+(:[0-9-]+)*:)? */\1: /p" | sort
}

# tree KERNEL COMMIT: what the tools that do not build need, in $tmp/KERNEL.tree
tree() {
	mkdir "$tmp/$1.tree"
	# shellcheck disable=SC2046
	git -C "$linux" archive "$2" scripts include arch/x86/include \
		$(touched "$2" '*.[ch]' ':!tools') | tar -xC "$tmp/$1.tree"
}

nothing_new() {
	comm -13 "$tmp/base" "$tmp/series" >"$tmp/new"
	echo "$1: $(wc -l <"$tmp/base") messages on the base," \
		"$(wc -l <"$tmp/series") on the series, new:"
	cat "$tmp/new"
	[ ! -s "$tmp/new" ]
}

# build KERNEL TARGETS: with a message for each target, also when nothing changed
build() {
	dir=$out/build/lint-$1
	rm -rf "$dir/stamp" "$dir/Documentation"
	"$root/tools/lib/build" -c "$(config_file full)" -o "$dir" -t "$2" "$1" &&
		plain <"$log/build-${dir##*/}.log" >"$tmp/$1"
}
