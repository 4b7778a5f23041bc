# SPDX-License-Identifier: GPL-2.0
# `make run` shows the patched kernel at work, `make check` proves it.

MAKEFLAGS += --no-print-directory

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

# make run          get, patch, build and boot the kernel; run the selftest on it
run:
	@tools/lib/deps run
	@tools/prepare
	@tools/vmtest anon shmem

# make mainline     build Linux 7.3 with patches/mainline/, run the quick tests
mainline: export SERIES = $(CURDIR)/patches/mainline/series
mainline:
	@tools/lib/deps run
	@tools/prepare
	@tools/vmtest quick

# make newer        the userfaultfd selftests of Linux 7.3, as they are, on this kernel
newer:
	@tools/lib/deps run
	@tools/prepare
	@tools/newer

# make demo         snapshots of shared memory that processes write meanwhile
demo:
	@tools/lib/deps run
	@tools/prepare
	@tools/demo

# make demo-qemu    the same by QEMU, of a virtual machine in the guest
demo-qemu:
	@tools/lib/deps run
	@tools/prepare
	@tools/demo --qemu

# make fuzz         stress-ng and trinity in the guest, beside snapshots; ARGS='-t 600'
fuzz:
	@tools/lib/deps fuzz
	@tools/prepare
	@tools/fuzz $(ARGS)

# make check        all tests that fit in an hour
check:
	@tools/lib/deps lint
	@tools/prepare
	@tools/check

# make check-long   the long ones too
check-long:
	@tools/lib/deps lint
	@tools/prepare
	@LONG=1 tools/check

# make lint         checkpatch, sparse, coccicheck and so on
lint:
	@tools/lib/deps lint
	@tools/prepare
	@tools/check scripts series apply
	@tools/lint

# make matrix       compile the patches in many configurations; ARGS=--all
matrix:
	@tools/lib/deps lint
	@tools/prepare
	@tools/matrix $(ARGS)

# make mutants      put defects into the kernel and see that a test catches each
mutants:
	@tools/lib/deps run
	@tools/prepare
	@tools/mutants $(ARGS)

# make bench        count the instructions of every operation, against plain 5.10
bench:
	@tools/lib/deps run
	@tools/prepare
	@tools/bench
	@tools/lib/sizes
	@tools/lib/cost

# make coverage     which lines of the patches the tests run
coverage:
	@tools/lib/deps run
	@tools/prepare
	@tools/coverage

# make figures      write what bench and mutants have measured into Documentation/
figures:
	@tools/lib/figures take bench mutants
	@tools/lib/figures write

# make prepare      only make linux/ with the series applied
prepare:
	@tools/lib/deps run
	@tools/prepare

# make refresh      write patches/ from the commits in linux/
refresh:
	@tools/refresh

# make vmtest       boot linux/ as it is, run all but long tests; ARGS='-c debug anon'
vmtest:
	@tools/vmtest $(ARGS)

# make clean        remove what was built
clean:
	rm -rf out/build out/src out/src.git out/src.lock out/vm out/log out/alone out/scratch-*
	@if [ -d out/linux-mainline ]; then cd out/linux-mainline && rm -rf build src src.git src.lock vm log; fi
	@if [ -d linux ]; then git -C linux worktree prune; fi

# make distclean    remove the kernel tree and downloads too, but no work of yours
distclean: clean
	@tools/prepare discard
	@SERIES=patches/mainline/series tools/prepare discard
	rm -rf out

.PHONY: help run mainline newer demo demo-qemu fuzz check check-long lint matrix mutants bench coverage figures prepare refresh vmtest clean distclean
