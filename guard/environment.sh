# Sourced by run.sh and tests/run.sh: finds a python that can run the project, or makes one in .venv.

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
    echo "error: this is bash $BASH_VERSION; install 4.4 or newer" >&2
    exit 2
fi

# The python that was there before .venv.
current_python() {
    local found
    if ! found=$(command -v python3 || command -v python); then
        echo "error: there is no python here; install Python 3.11 or newer" >&2
        return 2
    fi
    if ! "$found" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "error: $found is $("$found" --version 2>&1); install Python 3.11 or newer" >&2
        return 2
    fi
    echo "$found"
}

# The python to check flags with: the standard library is all that needs.
light_python() {
    if [ -x .venv/bin/python ]; then echo .venv/bin/python; else current_python; fi
}

# set_up REQUIREMENTS...: sets PYTHON to an interpreter that has all that the given files list. The current
# python serves where it imports all of that; else .venv is made, on top of the current python's torch where
# it has one.
set_up() {
    local current
    if [ -f "$(stamp "$@")" ]; then
        PYTHON=.venv/bin/python
        return
    fi
    current=$(current_python)
    if "$current" -c "$(imports "$@")" 2>/dev/null; then
        PYTHON=$current
        return
    fi
    local has_torch=no
    # A .venv can build on a system's python, not on another environment's.
    local is_system='import sys, torch, torchvision; sys.exit(sys.prefix != sys.base_prefix)'
    if "$current" -c "$is_system" 2>/dev/null; then has_torch=yes; fi
    echo "setting up .venv (once; torch alone is a download of a few hundred MB to 3 GB)" >&2
    if [ $has_torch = yes ]; then
        "$current" -m venv --system-site-packages .venv
        cat "$@" | grep -v '^torch' | install_into_venv -r /dev/stdin
    else
        "$current" -m venv .venv
        cat "$@" | install_into_venv -r /dev/stdin
    fi
    .venv/bin/python -c 'import torch, torchvision'
    touch "$(stamp "$@")"
    local file
    for file in "$@"; do touch "$(stamp "$file")"; done # what the tests need is more than run.sh does
    PYTHON=.venv/bin/python
}

# stamp FILE...: the file that says that .venv has all that they list.
stamp() {
    echo ".venv/complete-$(cat "$@" | cksum | cut -d ' ' -f 1)"
}

install_into_venv() {
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "$@"
}

# imports FILE...: python code that imports every package listed.
imports() {
    local names=(-e 's/^pillow$/PIL/' -e 's/^pytest-xdist$/xdist/')
    cat "$@" | sed -e 's/[=<>].*//' -e '/^ *#/d' -e '/^ *$/d' "${names[@]}" -e 's/^/import /'
}
