#!/usr/bin/env bash
# The disk image for macOS: packaging/macos/make_dmg.sh VERSION, after `python3 start.py build`.
# With SIGN_AS (a "Developer ID Application" certificate) and NOTARY_PROFILE (of `xcrun notarytool store-credentials`)
# in the environment it is signed and notarised; without them it is signed for this machine, and others have to open it
# with Control-click, Open.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

version=${1:?"say which version"}
app=dist/Gliascope.app
image=dist/gliascope-$version-macos-$(uname -m).dmg
rights=packaging/macos/entitlements.plist

if [ -n "${SIGN_AS:-}" ]; then
    codesign --force --deep --timestamp --options runtime --entitlements "$rights" --sign "$SIGN_AS" "$app"
else
    codesign --force --deep --sign - "$app"
fi
codesign --verify --deep --strict "$app"

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
cp -R "$app" "$stage/"
ln -s /Applications "$stage/Applications"
cp LICENSE dist/gliascope/THIRD-PARTY.txt "$stage/"
rm -f "$image"
hdiutil create -volname "Gliascope $version" -srcfolder "$stage" -format ULMO -ov "$image"

if [ -n "${SIGN_AS:-}" ]; then
    codesign --timestamp --sign "$SIGN_AS" "$image"
    xcrun notarytool submit "$image" --keychain-profile "$NOTARY_PROFILE" --wait
    xcrun stapler staple "$image"
fi
echo "$image"
