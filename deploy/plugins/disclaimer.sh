#!/bin/sh
# A filter of kind "filter": adds a line to the end of each message that is plain text, and refuses messages that ask
# to be refused. It reads lines that end with LF.
set -eu
mail=$(mktemp)
trap 'rm -f "$mail"' EXIT
cat > "$mail"

header=$(sed '/^$/q' "$mail")
case $header in
    *"X-Refuse-Me:"*)
        echo "it asks for it" >&2
        exit 69
        ;;
    *[Cc]ontent-[Tt]ype:*multipart* | *[Cc]ontent-[Tt]ransfer-[Ee]ncoding:*) exit 0 ;;
esac
cat "$mail"
echo "Sent by $OPES_SENDER."
