#!/usr/bin/env bash
# Prints the path of a Chromium, installing Debian's where that can be done. Exit code 3: there is none, and what to do stands on
# standard error. BROWSER=none leaves the browser tests out (exit code 4).
set -euo pipefail

if [ "${BROWSER:-}" = none ]; then exit 4; fi
if [ -n "${CHROMIUM:-}" ]; then
	if [ -x "$CHROMIUM" ]; then echo "$CHROMIUM"; exit 0; fi
	echo "CHROMIUM names $CHROMIUM, which is not there or cannot be run" >&2; exit 3
fi
find_one() {
	for name in chromium chromium-browser google-chrome-stable google-chrome; do
		if command -v "$name"; then return 0; fi
	done
	for path in /usr/lib/chromium/chromium /opt/google/chrome/chrome "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome" /Applications/Chromium.app/Contents/MacOS/Chromium; do
		if [ -x "$path" ]; then echo "$path"; return 0; fi
	done
	return 1
}
if find_one; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	echo "no Chromium here: installing Debian's" >&2
	export DEBIAN_FRONTEND=noninteractive
	{ apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core fonts-wqy-microhei; } >&2 || true
	if find_one; then exit 0; fi
fi
cat >&2 <<'END'
The browser tests need a Chromium and could not install one.
  Debian, Ubuntu:  apt-get install chromium fonts-dejavu-core fonts-wqy-microhei   (as root)
  elsewhere:       set CHROMIUM to the path of a Chromium or Chrome
  to go without:   BROWSER=none
END
exit 3
