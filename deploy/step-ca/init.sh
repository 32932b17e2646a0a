#!/bin/sh
# Makes the CA of a federation, or brings one up to date, and then runs the command that is given.
#
#   init.sh                                      make it, and end
#   init.sh step-ca --password-file F ca.json    make it, and become step-ca
#
# It runs in the stock image smallstep/step-ca and wherever step is on the PATH. It may be killed at any point and run
# again, and two may run at once: a new CA is built in a draft and moved into place whole, and ca.json is replaced by
# a rename. A CA that is there keeps its keys, its database and every setting that is not named below.
#
# What it sees to: the provisioners mosaic-fed, with the template beside this file, and mosaic-gateway, both for 60 s to
# 8760 h and without renewal at the CA; a database, without which nothing can be revoked; the revocation list.
#
#   STEPPATH                            directory of the CA (/home/step)
#   STEP_CA_NAME                        name in its certificates (Mosaic)
#   STEP_CA_DNS_NAMES                   names and addresses it is reached by, separated by commas (localhost,127.0.0.1)
#   STEP_CA_LISTEN                      address it listens on (:9000)
#   STEP_CA_PASSWORD_FILE               opens the CA's keys ($STEPPATH/secrets/password)
#   STEP_CA_PROVISIONER_PASSWORD_FILE   opens the provisioners' keys (the same file)
#   MOSAIC_OID_ARC                      arc of the two certificate extensions (1.3.6.1.4.1.99999)
set -eu
umask 077

say() { printf 'step-ca init: %s\n' "$*" >&2; }

die() {
	say "$1"
	say "hint: $2"
	exit 1
}

STEPPATH=${STEPPATH:-/home/step}
export STEPPATH
here=$(dirname "$0")
draft=$STEPPATH/.mosaic-init
config=$STEPPATH/config/ca.json
password=${STEP_CA_PASSWORD_FILE:-$STEPPATH/secrets/password}
provisioner_password=${STEP_CA_PROVISIONER_PASSWORD_FILE:-$password}
tab=$(printf '\t')

check() {
	command -v step >/dev/null 2>&1 || die 'there is no step command' 'use the image smallstep/step-ca, or put step on the PATH'
	for file in "$password" "$provisioner_password"; do
		[ -s "$file" ] || die "the password file $file is missing or empty" \
			'make one: (umask 077; openssl rand -hex 32 >FILE), and name it in STEP_CA_PASSWORD_FILE'
	done
	[ -s "$here/templates/mosaic-fed.tpl" ] || die "the template $here/templates/mosaic-fed.tpl is missing" 'keep it beside this file'
	case ${arc:=1.3.6.1.4.1.99999} in
	*[!0-9.]* | .* | *. | *..*) die "MOSAIC_OID_ARC is no arc of numbers: $arc" 'write it as 1.3.6.1.4.1.NUMBER' ;;
	esac
}

# Nobody else works on the directory meanwhile. The kernel gives the lock back when the last of us ends, a step that
# outlives a killed shell included.
lock() {
	mkdir -p "$STEPPATH"
	exec 9>"$STEPPATH/.mosaic-init.lock"
	if command -v flock >/dev/null 2>&1; then flock 9; fi
}

# quietly shows what a command says only when it fails.
quietly() {
	if said=$("$@" 2>&1 </dev/null); then return 0; fi
	printf '%s\n' "$said" >&2
	die "failed: $*" 'the reason is above; when it is mended, run this again: nothing is left half done'
}

# --- A new CA -----------------------------------------------------------------------------------------

build() {
	rm -rf "$draft"
	mkdir "$draft"
	set -- --deployment-type standalone --name "${STEP_CA_NAME:-Mosaic}" --address "${STEP_CA_LISTEN:-:9000}" \
		--provisioner mosaic-gateway --password-file "$password" --provisioner-password-file "$provisioner_password" --no-db
	rest=${STEP_CA_DNS_NAMES:-localhost,127.0.0.1},
	while [ -n "$rest" ]; do
		name=${rest%%,*}
		rest=${rest#*,}
		[ -z "$name" ] || set -- "$@" --dns "$name"
	done
	root=$draft/certs/root_ca.crt
	quietly env "STEPPATH=$draft" step ca init "$@"
	mkdir "$draft/db"
	# The draft's files name each other by the draft's path.
	for file in ca.json defaults.json; do
		sed "s|$draft/|$STEPPATH/|g" "$draft/config/$file" >"$draft/$file"
		mv "$draft/$file" "$draft/config/$file"
	done
	settle "$draft/config/ca.json"
	# What is public is readable: a gateway on this machine reads the root here.
	chmod 755 "$draft/certs"
	chmod 644 "$draft/certs/root_ca.crt" "$draft/certs/intermediate_ca.crt"
	flush
	: >"$draft/complete"
	flush
}

# move puts a complete draft in place, or what a killed run left of one. config comes last: it makes the CA.
move() {
	for part in certs secrets db config; do
		[ -e "$draft/$part" ] || continue
		vacate "$part"
		mv "$draft/$part" "$STEPPATH/$part"
	done
	flush
}

# vacate makes room for a part of the CA. Files that are there are somebody's keys, perhaps: they are not ours to remove.
vacate() {
	[ ! -d "$STEPPATH/$1" ] || rmdir "$STEPPATH/$1" 2>/dev/null ||
		die "$STEPPATH/$1 holds files, and there is no CA they belong to" "move them away, or put the CA's own config/ca.json back"
}

flush() { sync -f "$STEPPATH" 2>/dev/null || sync; }

# --- What ca.json must say ----------------------------------------------------------------------------

has_provisioner() { grep -q "\"name\"[[:space:]]*:[[:space:]]*\"$1\"" "$2"; }

# These two members have one place in the file, so their names tell.
has_member() { grep -q "\"$1\"[[:space:]]*:" "$2"; }

# settle mends a ca.json that nobody uses yet. What is right stays byte for byte as it is.
settle() {
	if grep -q '"enableAdmin"[[:space:]]*:[[:space:]]*true' "$1"; then
		die 'this CA keeps its provisioners in its database (enableAdmin)' \
			'add mosaic-fed and mosaic-gateway with step ca provisioner add, as templates/mosaic-fed.tpl says at its head'
	fi
	sed "s/1\.3\.6\.1\.4\.1\.99999/$arc/g" "$here/templates/mosaic-fed.tpl" >"$draft/mosaic-fed.tpl"
	for name in mosaic-gateway mosaic-fed; do
		if ! has_provisioner "$name" "$1"; then
			provisioner add "$1" "$name" --type JWK --create --password-file "$provisioner_password"
		fi
	done
	has_member db "$1" || first "$1" "\"db\": {\"type\": \"bbolt\", \"dataSource\": \"$STEPPATH/db/step-ca.db\"}"
	has_member crl "$1" || first "$1" '"crl": {"enabled": true, "generateOnRevoke": true, "cacheDuration": "24h"}'
	# step writes the whole file anew, in its own form: what has been mended once stays as it is.
	limits "$1"
}

# provisioner ACTION FILE NAME FLAGS... works on a file. step asks the CA first whether it administers itself, and takes
# the file when nobody answers: at this port nobody does, also while the CA runs.
provisioner() {
	action=$1 file=$2
	shift 2
	quietly step ca provisioner "$action" "$@" --ca-config "$file" --ca-url https://127.0.0.1:1 --root "$root"
}

limits() {
	provisioner update "$1" mosaic-gateway \
		--x509-min-dur 60s --x509-max-dur 8760h --x509-default-dur 24h --disable-renewal --ssh=false
	provisioner update "$1" mosaic-fed \
		--x509-min-dur 60s --x509-max-dur 8760h --x509-default-dur 24h --disable-renewal --ssh=false --x509-template "$draft/mosaic-fed.tpl"
}

# first writes a member at the head of the outermost object.
first() {
	sed "1s|^{|{ $2,|" "$1" >"$1.new"
	mv "$1.new" "$1"
}

# update brings a CA that is there up to date.
update() {
	rm -rf "$draft"
	mkdir "$draft"
	cp -p "$config" "$draft/ca.json"
	root=$STEPPATH/certs/root_ca.crt
	settle "$draft/ca.json"
	cmp -s "$draft/ca.json" "$config" || {
		flush
		mv "$draft/ca.json" "$config"
		flush
		say "$config is brought up to date; a step-ca that runs reads it at SIGHUP"
	}
}

arc=${MOSAIC_OID_ARC:-}
arc=${arc%%,*}
check
lock
if [ -e "$draft/complete" ]; then
	move
	say "made a CA in $STEPPATH"
elif [ -e "$config" ]; then
	update
else
	for part in certs secrets db config; do vacate "$part"; done
	build
	move
	say "made a CA in $STEPPATH"
fi
rm -rf "$draft"
[ $# -eq 0 ] || exec "$@" 9>&-
