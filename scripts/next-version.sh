#!/bin/sh
# Builds the program that a next version might be: one view's VERSION is raised, nothing else. Prints where it is.
# For `make test-upgrade`: two programs on one database.
set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
copy="$top/target/next-version"
mkdir -p "$copy"
# The sources as they are, without what was built. Times are kept, so that only what changed is built again.
for item in Cargo.toml Cargo.lock domain ledger commands projections api tests migrations rustfmt.toml clippy.toml; do
    rm -rf "${copy:?}/$item"
    cp -Rp "$top/$item" "$copy/$item"
done
view="$copy/projections/src/views/secrets.rs"
raised=$(sed -n 's/^ *const VERSION: u32 = \([0-9]*\);.*/\1/p' "$view" | head -n 1)
sed "s/const VERSION: u32 = $raised;/const VERSION: u32 = $((raised + 1));/" "$top/projections/src/views/secrets.rs" >"$view"
# A target folder of its own: in a shared one, cargo would take the one program for the other, since both have the same names.
(cd "$copy" && CARGO_TARGET_DIR="$copy/target" "${CARGO:-cargo}" build --locked --quiet --bin daybook) >&2
echo "$copy/target/debug/daybook"
