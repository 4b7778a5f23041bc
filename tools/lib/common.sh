# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh disable=SC2034,SC2059
# Sourced: where things are, and long steps that show they are alive.

root=$(cd "$(dirname "$0")/.." && pwd)
root=${root%/tools}
me=${0##*/}
# SERIES=file: another series, for the kernel that its header names: patches in
# patches/ as well, a kernel tree and an out/ of its own.
series=${SERIES:-$root/mm-shmem-uffd-wp.series}
case $series in /*) ;; *) series=$PWD/$series ;; esac

# header NAME: a "# name: value" line of the series file.
header() { sed -n "s/^# $1: *//p" "$series"; }

# config_file NAME: one of tools/configs/, or the series' own of that name.
config_file() {
	for _f in "$root/$(header tests)/$1.config" "$root/tools/configs/$1.config"; do
		[ ! -f "$_f" ] || { echo "$_f"; return; }
	done
	echo "$1"
}

out=$root/out
tree_name=$(header tree)
[ -z "$tree_name" ] || out=$root/out/$tree_name
log=$out/log

# The kernel tree under test: our own import, or a work tree of the user's
# repository (LINUX=/path) with one new branch.
if [ "${LINUX:-}" ]; then
	linux=$root/linux-own
	branch=uffd-wp-shmem
else
	linux=$root/${tree_name:-linux}
	branch=series
fi

die() { echo "$me: $*" >&2; exit 1; }

# What a tool says of itself, down to its first line that is no comment.
usage() {
	sed -n '3,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$0"
	exit 2
}

base_commit() {
	git -C "$linux" rev-parse -q --verify refs/worktree/base ||
		git -C "$linux" rev-parse -q --verify 'refs/heads/base^{commit}' ||
		die "no base kernel in $linux; run tools/prepare"
}

# The patch files, in order, as SHELF/NAME.patch; and those of one shelf.
patch_files() { sed '/^#/d;/^$/d' "$series"; }
shelf_patches() { patch_files | sed "\\|^$1/|!d"; }

# The shelves, in order; header on-base names those that need no other.
shelves() { sed -n 's/^# -- \([^: ]*\):.*/\1/p' "$series"; }

elapsed() { printf '%dm%02ds' $(($1 / 60)) $(($1 % 60)); }

# step NAME LOG COMMAND...: run a command with its output in LOG.  While it
# runs, show the time and the last line of ${watch:-LOG}.
step() {
	_name=$1 _log=$2 _t0=$(date +%s) _said=0
	shift 2
	mkdir -p "${_log%/*}"
	: >"$_log"
	setsid "$@" >"$_log" 2>&1 </dev/null &
	_pid=$!
	trap 'kill -s TERM -- "-$_pid" 2>/dev/null; exit 130' INT TERM HUP
	while kill -0 $_pid 2>/dev/null; do
		_t=$(($(date +%s) - _t0))
		if [ $((_t - _said)) -ge "$step_every" ]; then
			_said=$_t
			_last=$(tail -n 1 "${watch:-$_log}" 2>/dev/null |
				tr -cd '[:print:]' | cut -c 1-50)
			printf "$step_line" "$_name" "$(elapsed $_t)" "$_last"
		fi
		sleep 0.2
	done
	_rc=0
	wait $_pid || _rc=$?
	trap - INT TERM HUP
	_t=$(elapsed $(($(date +%s) - _t0)))
	if [ $_rc = 0 ]; then
		printf "$step_end" "$_name" "$_t" ok
	else
		printf "$step_end" "$_name" "$_t" "FAILED, log: $_log"
		{ grep -E 'error:|undefined reference' "$_log" | head -n 5; tail -n 10 "$_log"; } |
			sed 's/^/    /'
	fi
	return $_rc
}
if [ -t 1 ]; then
	step_every=1 step_line='\r\033[K%-34s %7s  %s' step_end='\r\033[K%-34s %7s  %s\n'
else
	step_every=30 step_line='%-34s %7s  ... %s\n' step_end='%-34s %7s  %s\n'
fi
