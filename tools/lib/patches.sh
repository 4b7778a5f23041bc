# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh disable=SC2034,SC2154
# Sourced after common.sh: from commits to patches and back.

# git that does not depend on the user's configuration.
plain_git() {
	GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null git \
		-c user.name='linux import' -c user.email=import@localhost \
		-c core.hooksPath=/dev/null -c commit.gpgSign=false -c core.autocrlf=false "$@"
}

# apply DIR PATCH...: git am on DIR, with the same commit ids everywhere.
apply() {
	_dir=$1
	shift
	plain_git -C "$_dir" -c mailinfo.scissors=false am -q --no-gpg-sign \
		--committer-date-is-author-date ${am_flags:+"$am_flags"} "$@"
}

# export_patches GITDIR RANGE DIR: the same bytes everywhere.
export_patches() {
	plain_git -C "$1" -c core.abbrev=12 -c core.quotePath=true -c diff.algorithm=default \
		-c diff.renames=true -c diff.noprefix=false -c diff.mnemonicPrefix=false \
		-c diff.context=3 -c diff.interHunkContext=0 -c diff.indentHeuristic=true \
		-c diff.orderFile=/dev/null -c diff.suppressBlankEmpty=false -c format.pretty=email \
		-c format.subjectPrefix=PATCH -c format.suffix=.patch -c format.filenameMaxLength=64 \
		format-patch -q -N --zero-commit --no-signature --no-cover-letter --no-attach \
		--no-thread --no-base --no-from --no-add-header --no-to --no-cc --no-notes \
		-o "$3" "$2"
}

# The name of a patch without shelf and number: what is known of it by its title.
bare() { sed 's|.*/||; s|^[0-9]\{4\}-||'; }

# same_patches DIR: do patches/ and the series file say what DIR, as
# export_patches leaves it, does?
same_patches() {
	[ "$(patch_files | bare)" = "$(cd "$1" && ls | bare)" ] || return 1
	patch_files | (
		cd "$1"
		set -- *
		while read -r _f; do
			cmp "$1" "$root/patches/$_f" || exit 1
			shift
		done
	)
}

# title FILE: of a patch, on one line
title() { git mailinfo /dev/null /dev/null <"$1" | sed -n 's/^Subject: //p'; }

# kernel_sum COMMIT: stands for what is compiled of it
kernel_sum() {
	_files=$(git -C "$linux" ls-tree "$1") || die "$linux has no $1"
	echo "$_files" | grep -vE '	(Documentation|tools)$' | sha256sum | cut -c 1-12
}

# measured_kernel KERNEL, as for tools/lib/build
measured_kernel() {
	case $1 in
	series) if git -C "$linux" diff --quiet HEAD; then kernel_sum HEAD; else echo uncommitted; fi ;;
	base) kernel_sum "$(base_commit)" ;;
	*/*) echo "$1" ;;
	*) kernel_sum "$1" ;;
	esac
}

# work_tree DIR COMMIT: a work tree of the kernel repository of our own, clean.
work_tree() {
	[ -e "$1/.git" ] && plain_git -C "$1" rev-parse -q --verify HEAD >/dev/null 2>&1 || {
		rm -rf "${1:?}"
		plain_git -C "$linux" worktree add -q -f --detach "$1" "$2"
	}
	[ ! -d "$(plain_git -C "$1" rev-parse --path-format=absolute --git-path rebase-apply)" ] ||
		plain_git -C "$1" am --abort
	plain_git -C "$1" checkout -q -f --detach "$2"
	plain_git -C "$1" clean -qfdx
}
scratch_tree() {
	scratch=$out/scratch-${linux##*/}
	work_tree "$scratch" "$1"
}

# applied_state [COMMIT]: which commit of the branch stands for which patches.
patches_sum() {
	patch_files | (cd "$root/patches" 2>/dev/null && xargs -r cat) | sha256sum | cut -c 1-64
}
applied_state() {
	_state=$(git -C "$linux" rev-parse --absolute-git-dir)/uffd-wp-applied
	if [ "${1:-}" ]; then
		echo "$1 $(patches_sum)" >"$_state"
	elif [ -e "$_state" ]; then
		cat "$_state"
	fi
}
