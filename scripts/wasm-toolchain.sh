#!/usr/bin/env bash
# Makes .tools/wasm/rustc, a rustc that builds for wasm32-unknown-unknown. Does nothing if it is already there.
#
#   scripts/wasm-toolchain.sh             the rustc on PATH if it has the target, else Debian's packages
#   scripts/wasm-toolchain.sh --debian    Debian's packages in any case: the toolchain that plugins/prebuilt was made with
#   scripts/wasm-toolchain.sh --rustup    rustup target add, then the rustc on PATH
#
# Debian's rustc-web and lld are unpacked below .tools/ (nothing is installed), and the standard library for the target is
# built once from the source package that goes with them. That takes about a minute and needs cargo, dpkg and apt-get.
set -euo pipefail

ROOT=$(cd "$(dirname "$0")/.." && pwd)
DIR=$ROOT/.tools/wasm
TARGET=wasm32-unknown-unknown
say() { echo "wasm-toolchain: $*" >&2; }
die() { say "$*"; exit 1; }
has_target() { ls "$("$1" --print target-libdir --target $TARGET 2>/dev/null)"/libstd-*.rlib >/dev/null 2>&1; }

use_path_rustc() {
    mkdir -p "$DIR"
    printf '#!/bin/sh\nexec rustc "$@"\n' >"$DIR/rustc"
    chmod +x "$DIR/rustc"
    echo path >"$DIR/kind"
    say "using $(rustc --version), which has $TARGET"
}

refresh_lists() {
    if [ "$(id -u)" = 0 ]; then apt-get update -qq >&2
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then sudo -n apt-get update -qq >&2
    else say "not root: using the package lists as they are"
    fi
}

depends() { apt-cache depends "$1" | awk '$1 == "Depends:" { print $2 }'; }

unpack_debian() {
    command -v apt-get >/dev/null && command -v dpkg >/dev/null ||
        die "this needs Debian's packages; elsewhere run: rustup target add $TARGET"
    refresh_lists
    local std llvm lld
    std=$(depends libstd-rust-web-dev | grep -m1 '^libstd-rust-web-[0-9]') || die "no package libstd-rust-web: is this Debian 12 with its security archive?"
    llvm=$(depends "$std" | grep -m1 '^libllvm')
    lld=lld-${llvm#libllvm}
    say "fetching Debian's rustc-web $(apt-cache policy rustc-web | awk '/Candidate:/ { print $2 }'), its source, $llvm and $lld"
    mkdir -p "$DIR/debs"
    (cd "$DIR/debs" && apt-get download -qq rustc-web libstd-rust-web-dev rust-web-src "$std" "$llvm" "$lld" >&2)
    for package in "$DIR"/debs/*.deb; do dpkg -x "$package" "$DIR/root"; done
    rm -rf "$DIR/debs"
}

wrap_debian() {
    local usr=$DIR/root/usr host arch bin lld
    host=$(rustc -vV | awk '/^host:/ { print $2 }')
    arch=$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || gcc -print-multiarch)
    lld=$(ls -d "$usr"/lib/llvm-*/bin/lld | head -n1)
    bin=$usr/lib/rustlib/$host/bin
    mkdir -p "$bin"
    cat >"$DIR/rustc" <<WRAPPER
#!/bin/sh
LD_LIBRARY_PATH=$usr/lib/$arch\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}; export LD_LIBRARY_PATH
exec $usr/bin/rustc "\$@"
WRAPPER
    chmod +x "$DIR/rustc"
    ln -sfn "$lld" "$bin/rust-lld"
}

build_std() {
    local usr=$DIR/root/usr source build=$DIR/build
    source=$(echo "$usr"/src/rustc-*/library)
    say "building the standard library for $TARGET"
    (
        cd "$source"
        unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_RUSTFLAGS
        export CARGO_BUILD_BUILD_DIR=$build RUSTC=$DIR/rustc RUSTC_BOOTSTRAP=1 __CARGO_DEFAULT_LIB_METADATA=std CARGO_PROFILE_DIST_DEBUG=0
        export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS="-Zforce-unstable-if-unmarked --remap-path-prefix=$source=/rust/library --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
        cargo build --quiet --locked --profile dist -p sysroot --target $TARGET --target-dir "$build" \
            --no-default-features --features panic-unwind,compiler-builtins-mem
    ) >"$DIR/std.log" 2>&1 || { tail -n 20 "$DIR/std.log" >&2; die "the standard library did not build; see $DIR/std.log"; }
    local lib=$usr/lib/rustlib/$TARGET/lib
    rm -rf "$lib" "$lib.tmp"
    mkdir -p "$lib.tmp"
    cp "$build/$TARGET"/dist/deps/*.rlib "$lib.tmp/"
    mv "$lib.tmp" "$lib"
    rm -rf "$build"
}

use_debian() {
    [ -x "$DIR/root/usr/bin/rustc" ] || unpack_debian
    wrap_debian
    has_target "$DIR/rustc" || build_std
    echo debian >"$DIR/kind"
    say "ready: $("$DIR/rustc" --version)"
}

wanted=${1:-}
present=$(cat "$DIR/kind" 2>/dev/null || true)
if [ -x "$DIR/rustc" ] && has_target "$DIR/rustc"; then
    case "$wanted:$present" in
        :?* | --debian:debian | --rustup:path) exit 0 ;;
    esac
fi
command -v cargo >/dev/null && command -v rustc >/dev/null || die "cargo and rustc must be on PATH"
case "$wanted" in
    --rustup) rustup target add $TARGET && use_path_rustc ;;
    --debian) use_debian ;;
    "") if has_target rustc; then use_path_rustc; else use_debian; fi ;;
    *) die "unknown argument \`$wanted\`" ;;
esac
has_target "$DIR/rustc" || die "no $TARGET standard library after set-up"
