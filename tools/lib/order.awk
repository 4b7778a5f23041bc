# SPDX-License-Identifier: GPL-2.0
# Which shelf does each patch of the branch stand on?
#
# usage: awk -f order.awk SERIES NEW
#
# NEW has a line "NAME.patch<tab>TITLE" for each patch, in order.  Prints the new
# series file, without the comments on single patches.

function bare(s) { if (s ~ /[.]patch$/) { sub(/.*\//, "", s); sub(/^[0-9][0-9][0-9][0-9]-/, "", s) } return s }
function stop(why) { print "refresh: " why > "/dev/stderr"; failed = 1; exit 1 }

# The lines of the old series after its header: headings, and patches under them.
# What is written by hand may be the title of a patch.
FILENAME == ARGV[1] {
	if (/^# -- [^ :]+: .* --$/) { shelf[++shelves] = substr($3, 1, length($3) - 1); head[shelves] = $0 }
	else if (/^# -- /) { if (!shelves) flat = 1 }
	else if (/^#/) { if (!shelves && !flat) print }
	else if (NF) { old[++olds] = bare($0); at[olds] = shelves }
	next
}
{ split($0, f, "\t"); name[++names] = f[1]; title[names] = f[2] }

END {
	if (failed) exit 1
	if (!shelves) stop("no heading \"# -- SHELF: TEXT --\" in the series file")
	for (o = 1; o <= olds; o++) {
		gone[o] = 1
		for (n = 1; n <= names; n++)
			if (!place[n] && (old[o] == name[n] || old[o] == title[n])) {
				place[n] = o
				delete gone[o]
				break
			}
	}
	# What has a new name stands where an old name has vanished, when there are
	# as many of these as of those between two patches that are known.
	for (n = 1; n <= names; n = m) {
		if (place[n]) { m = n + 1; continue }
		for (m = n; m <= names && !place[m]; m++) ;
		last = n > 1 ? place[n - 1] : 0
		next_ = m <= names ? place[m] : olds + 1
		for (i = n; i < m; i++)
			on[i] = n == 1 ? (m <= names ? at[next_] : 1) : on_known(n - 1)
		if (next_ - last - 1 == m - n)
			for (i = n; i < m; i++) {
				on[i] = at[last + 1 + i - n]
				delete gone[last + 1 + i - n]
			}
	}
	for (n = 1; n <= names; n++) {
		if (place[n]) on[n] = at[place[n]]
		if (!on[n]) on[n] = n > 1 ? on[n - 1] : 1
		if (n > 1 && on[n] < on[n - 1])
			stop(name[n] " is on shelf " shelf[on[n]] ", but comes after patches of " \
				shelf[on[n - 1]] ": move its line in the series file, or the commit")
		k = on[n] "/" name[n]
		if (k in seen) stop("two patches of shelf " shelf[on[n]] " are named " name[n])
		seen[k] = 1
	}
	for (s = n = 1; s <= shelves; s++) {
		print "\n" head[s]
		for (; n <= names && on[n] == s; n++) print shelf[s] "/" name[n]
	}
	for (o = 1; o <= olds; o++)
		if (o in gone) print "not in the branch any more: " old[o] > "/dev/stderr"
}
function on_known(n) { return place[n] ? at[place[n]] : on[n] }
