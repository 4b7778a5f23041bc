# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh disable=SC2154
# Sourced after common.sh: one state of the kernel tree, ready to build.
#
# The wanted state is checked out in out/src, whatever its origin, so that all
# builds have the same paths and share objects through ccache, and edits made
# meanwhile do no harm.

# KERNEL as a file name.
build_name() { basename "$1" | tr -c 'A-Za-z0-9._\n-' _; }

# find_tree KERNEL: sets tree, the id of the git tree that KERNEL stands for.
#   series   work tree of linux/, with what is not committed
#   base     the unpatched kernel
#   or a commit of linux/, or the path of another git work tree
find_tree() {
	kernel=$1
	name=$(build_name "$kernel")
	mkdir -p "$out/build" "$out/src" "$log"
	# Tools may run side by side; out/src is one.
	exec 9>"$out/src.lock"
	flock -n 9 || { echo 'waiting for another build to end'; flock 9; }

	store=$out/src.git
	[ -d "$store" ] || git init -q --bare "$store"

	# Objects of the tree are read where they are; new ones go to our own store.
	from=$linux
	case $kernel in */*) [ -d "$kernel" ] && from=$kernel ;; esac
	[ -e "$from/.git" ] || die "no git work tree $from; run tools/prepare"
	GIT_ALTERNATE_OBJECT_DIRECTORIES=$(git -C "$from" rev-parse \
		--path-format=absolute --git-path objects)
	export GIT_ALTERNATE_OBJECT_DIRECTORIES
	if [ "$kernel" = series ] || [ "$from" != "$linux" ]; then
		index=$out/src.git/index.$$
		trap 'rm -f "$index"' EXIT
		# With its time: git knows by it what was edited in the second of a checkout.
		cp -p "$(git -C "$from" rev-parse --path-format=absolute --git-path index)" "$index"
		tree=$(export GIT_INDEX_FILE="$index" GIT_OBJECT_DIRECTORY="$store/objects"
			git -C "$from" add -A && git -C "$from" write-tree)
	elif [ "$kernel" = base ]; then
		tree=$(git -C "$from" rev-parse "$(base_commit)^{tree}")
	else
		tree=$(git -C "$from" rev-parse -q --verify "$kernel^{tree}") ||
			die "no such kernel: $kernel"
	fi
}

checkout_tree() {
	step "checkout $name" "$log/checkout.log" git --git-dir="$store" \
		--work-tree="$out/src" -c core.fileMode=true read-tree --reset -u "$tree"
}

export CCACHE_DIR="$root/out/ccache" CCACHE_NOHASHDIR=1 CCACHE_MAXSIZE=4G
cc=gcc
command -v ccache >/dev/null && cc='ccache gcc'
# kmake STEP LOG ARG...
kmake() {
	_step=$1 _to=$2
	shift 2
	step "$_step $name" "$log/$_to-${dir##*/}.log" make -C "$out/src" "O=$dir" \
		"ARCH=${arch:-x86_64}" "CROSS_COMPILE=${cross:-}" HOSTCC="$cc" \
		"CC=${cc%gcc}${cross:-}${compiler:-gcc}" "LOCALVERSION=-$name" "$@" \
		KBUILD_BUILD_TIMESTAMP=2026-01-01 KBUILD_BUILD_USER=uffd-wp \
		KBUILD_BUILD_HOST=localhost
}
