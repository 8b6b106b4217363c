#!/usr/bin/env bash
# Builds every plugin under plugins/ into a component.
#
#   scripts/build-plugins.sh [DIR]    components go to DIR (default: target/components)
#
# Uses .tools/wasm/rustc, which scripts/wasm-toolchain.sh makes. The same toolchain gives the same bytes in any directory.
set -euo pipefail

ROOT=$(cd "$(dirname "$0")/.." && pwd)
OUT=${1:-$ROOT/target/components}
RUSTC=$ROOT/.tools/wasm/rustc
TARGET=wasm32-unknown-unknown
TIDEGATE=${TIDEGATE:-}
[ -x "$RUSTC" ] || { echo "build-plugins: no $RUSTC; run scripts/wasm-toolchain.sh first" >&2; exit 1; }
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
cd "$ROOT"

# Paths end up in panic messages; whoever builds, wherever, must get the same ones.
unset RUSTFLAGS CARGO_BUILD_RUSTFLAGS CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS
RUSTFLAGS="--remap-path-prefix=$ROOT=/tidegate --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo --remap-path-prefix=$("$RUSTC" --print sysroot)=/rust"

componentize() {
    if [ -n "$TIDEGATE" ]; then "$TIDEGATE" plugin build "$1" -o "$2"
    else cargo run --quiet --locked -p tidegate --example componentize -- "$1" "$2"
    fi
}

for manifest in plugins/*/Cargo.toml; do
    name=$(basename "$(dirname "$manifest")")
    CARGO_ENCODED_RUSTFLAGS=$(printf '%s' "$RUSTFLAGS" | tr ' ' '\037') RUSTC=$RUSTC \
        cargo build --quiet --locked --manifest-path plugins/Cargo.toml -p "$name" --lib --profile plugin --target $TARGET --target-dir "$ROOT/target/plugins"
    componentize "$ROOT/target/plugins/$TARGET/plugin/${name//-/_}.wasm" "$OUT/$name.wasm"
    echo "$name: $(wc -c <"$OUT/$name.wasm") bytes, sha256 $(sha256sum "$OUT/$name.wasm" | cut -d' ' -f1)"
done
