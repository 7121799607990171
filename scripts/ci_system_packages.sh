#!/usr/bin/env bash
# What tests need beside Python packages: chromium looks at the HTML report of cls-bench, qemu-user stands in for other CPUs, bubblewrap for a
# container engine; nginx is in front of servers; g++ compiles our kernels with sanitizers.
# As root on Debian or Ubuntu it installs them; elsewhere it says which tests will be skipped. It never fails.
set -uo pipefail

declare -A PROGRAMS=([chromium]=chromium [qemu-user]=qemu-x86_64 [bubblewrap]=bwrap [nginx-light]=nginx [g++]=g++)
missing=()
for package in "${!PROGRAMS[@]}"; do
    command -v "${PROGRAMS[$package]}" > /dev/null || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi
if [ "$(id -u)" -eq 0 ] && command -v apt-get > /dev/null; then
    echo "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" fonts-dejavu-core > /dev/null
fi
for package in "${missing[@]}"; do
    command -v "${PROGRAMS[$package]}" > /dev/null \
        || echo "notice: no ${PROGRAMS[$package]}; its tests are skipped. To run them: apt-get install $package" >&2
done
exit 0
