#!/bin/sh
# Makes a Python for ARM64 on a Debian machine of another kind: `_build/arm/env/bin/python`, for `make arm`.
# It is Debian's own, unpacked and not installed, with the wheels that a user on ARM64 gets; QEMU translates its
# instructions. Nothing is done as root but the installation of what is missing here.
set -eu
cd "$(dirname "$0")/.."
here=$PWD/_build/arm
python=${PYTHON:-python3}

# What a bare Debian machine lacks: the emulator, and Python's venv, whose pip fetches the wheels.
missing=""
command -v qemu-aarch64-static >/dev/null || command -v qemu-aarch64 >/dev/null || missing="$missing qemu-user-static"
command -v "$python" >/dev/null || missing="$missing python3"
"$python" -c "import ensurepip, venv" 2>/dev/null || missing="$missing python3-venv"
if [ -n "$missing" ]; then
  as_root=$([ "$(id -u)" = 0 ] || echo sudo)
  $as_root apt-get update -qq
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $missing >/dev/null
fi
qemu=$(command -v qemu-aarch64-static || command -v qemu-aarch64)

# Debian's packages for arm64, from where this machine gets its own: apt keeps books of its own here, in which
# nothing is installed yet, and so it fetches Python with all that it depends on.
rm -rf "$here"
mkdir -p "$here/apt/lists/partial" "$here/apt/archives/partial" "$here/root"
touch "$here/apt/status"
apt() {
  apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User= -o Dir::State="$here/apt" \
    -o Dir::State::status="$here/apt/status" -o Dir::Cache="$here/apt" "$@"
}
apt update
apt --yes --no-install-recommends --download-only install python3-minimal libpython3-stdlib libgomp1 libstdc++6
for package in "$here"/apt/archives/*.deb; do
  dpkg-deb --extract "$package" "$here/root"
done
[ -e "$here/root/lib" ] || ln -s usr/lib "$here/root/lib"

# What Linux says of such a processor, for LLVM and ONNX Runtime, which would read of this machine's. As on every ARM64,
# LLVM makes no dot product of it (asimddp).
mkdir -p "$here/root/proc"
for n in 0 1; do
  printf 'processor\t: %s\nFeatures\t: fp asimd crc32 atomics fphp asimdhp asimdrdm asimddp\nCPU implementer\t: 0x00\n' "$n"
  printf 'CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0x051\nCPU revision\t: 0\n\n'
done >"$here/root/proc/cpuinfo"

# A virtual environment whose python is this script. QEMU tells Python that it was started by this name, and so it is
# sys.executable too: a test that starts another Python starts the emulator. `max` has every instruction there is.
version=$(readlink "$here/root/usr/bin/python3")
mkdir -p "$here/env/bin"
printf 'home = %s\ninclude-system-site-packages = false\n' "$here/root/usr/bin" >"$here/env/pyvenv.cfg"
cat >"$here/env/bin/python.new" <<end
#!/bin/sh
exec $qemu -cpu max -L "$here/root" -0 "$here/env/bin/python" "$here/root/usr/bin/$version" "\$@"
end
chmod +x "$here/env/bin/python.new"

# Wheels for ARM64, of the versions that are pinned, and nothing that would have to be built.
"$python" -m venv "$here/pip"
"$here/pip/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
  --target "$here/env/lib/$version/site-packages" --python-version "${version#python}" --only-binary=:all: \
  --platform manylinux2014_aarch64 $(seq --format='--platform manylinux_2_%.0f_aarch64' 17 36) \
  numpy numba matplotlib ml_dtypes onnx onnxruntime pytest hypothesis
rm -rf "$here/apt" "$here/pip"
mv "$here/env/bin/python.new" "$here/env/bin/python"
