#!/usr/bin/env bash
# Builds every plugin under plugins/ into a component.
#
#   scripts/build-plugins.sh [DIR]       components go to DIR (default: target/components)
#   scripts/build-plugins.sh --check     fails unless a rebuild gives the very bytes in plugins/prebuilt, and its manifest
#   scripts/build-plugins.sh --prebuilt  rebuilds plugins/prebuilt and its manifest
#
# Uses .tools/wasm/rustc, which scripts/wasm-toolchain.sh makes; it is made if it is missing. The same toolchain gives the same
# bytes in any directory. What is checked and kept was built with Debian's toolchain, which the manifest names.
set -euo pipefail

ROOT=$(cd "$(dirname "$0")/.." && pwd)
PREBUILT=$ROOT/plugins/prebuilt
RUSTC=$ROOT/.tools/wasm/rustc
TARGET=wasm32-unknown-unknown
die() { echo "build-plugins: $*" >&2; exit 1; }

# Paths end up in panic messages; whoever builds, wherever, must get the same ones.
flags() {
    printf -- '--remap-path-prefix=%s=/tidegate\037' "$ROOT"
    printf -- '--remap-path-prefix=%s=/cargo\037' "${CARGO_HOME:-$HOME/.cargo}"
    printf -- '--remap-path-prefix=%s=/rust\037' "$("$RUSTC" --print sysroot)"
    # As `tidegate plugin build` does: a small guest's memory is to be small.
    printf -- '-Clink-arg=-zstack-size=65536'
}

# Those crates that make a module; what plugins share makes none.
plugins() { grep -l '"cdylib"' "$ROOT"/plugins/*/Cargo.toml | while read -r manifest; do basename "$(dirname "$manifest")"; done; }

build() {
    local out=$1 name
    mkdir -p "$out"
    unset RUSTFLAGS CARGO_BUILD_RUSTFLAGS CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS
    for name in $(plugins); do
        CARGO_ENCODED_RUSTFLAGS=$(flags) RUSTC=$RUSTC cargo build --quiet --locked --manifest-path "$ROOT/plugins/Cargo.toml" \
            -p "$name" --lib --profile plugin --target $TARGET --target-dir "$ROOT/target/plugins"
        (cd "$ROOT" && cargo run --quiet --locked -p tidegate --example componentize -- \
            "$ROOT/target/plugins/$TARGET/plugin/${name//-/_}.wasm" "$out/$name.wasm")
    done
}

toolchain() { "$RUSTC" -vV | awk '/^rustc/ { print } /^LLVM version/ { print "LLVM", $3 }' | paste -sd, | sed 's/,/, /g'; }

manifest() {
    local out=$1 name
    echo "# Written by scripts/build-plugins.sh --prebuilt; scripts/build-plugins.sh --check holds it."
    echo "toolchain = \"$(toolchain)\""
    for name in $(plugins); do
        printf '\n[%s]\n' "$name"
        echo "sha256 = \"$(sha256sum "$out/$name.wasm" | cut -d' ' -f1)\""
        echo "bytes = $(wc -c <"$out/$name.wasm")"
        echo "exports = [$(grep -aoE 'tidegate:plugin/(filter|transform)@[0-9.]+' "$out/$name.wasm" | sort -u | sed 's/.*/"&"/' | paste -sd, | sed 's/,/, /g')]"
    done
}

recorded_toolchain() {
    "$ROOT/scripts/wasm-toolchain.sh" --debian
    local recorded
    recorded=$(sed -n 's/^toolchain = "\(.*\)"$/\1/p' "$PREBUILT/manifest.toml" 2>/dev/null || true)
    [ "${1:-}" = any ] || [ "$recorded" = "$(toolchain)" ] ||
        die "plugins/prebuilt was built with \`$recorded\`, Debian now gives \`$(toolchain)\`: run scripts/build-plugins.sh --prebuilt and commit"
}

case "${1:-}" in
    --check)
        recorded_toolchain
        out=$ROOT/target/components
        build "$out"
        manifest "$out" >"$out/manifest.toml"
        for file in manifest.toml $(plugins | sed 's/$/.wasm/'); do
            cmp "$out/$file" "$PREBUILT/$file" || die "a rebuild gives another $file: run scripts/build-plugins.sh --prebuilt and commit"
        done
        echo "plugins/prebuilt is what its sources give"
        ;;
    --prebuilt)
        recorded_toolchain any
        # The gateway that makes components holds the prebuilt ones: a new plugin has to have a file, and no file changes before all are made.
        for name in $(plugins); do [ -e "$PREBUILT/$name.wasm" ] || : >"$PREBUILT/$name.wasm"; done
        out=$ROOT/target/components
        build "$out"
        for name in $(plugins); do cp "$out/$name.wasm" "$PREBUILT/"; done
        manifest "$PREBUILT" >"$PREBUILT/manifest.toml"
        cat "$PREBUILT/manifest.toml"
        ;;
    -*) die "unknown option \`$1\`" ;;
    *)
        [ -x "$RUSTC" ] || "$ROOT/scripts/wasm-toolchain.sh"
        build "$(realpath -m "${1:-$ROOT/target/components}")"
        ;;
esac
