#!/usr/bin/env bash
# Installs what `make run`, `make test` and `make check` need on Debian 12/13 or Ubuntu 24.04.
#
#   setup.sh run                  PostgreSQL 15+, pgvector, openssl, curl, CA certificates
#   setup.sh test                 that, Valkey, a C compiler (the race detector links C), HAProxy, BusyBox, step and step-ca
#   setup.sh check                that, staticcheck and gofumpt
#   setup.sh packages [run|test]  only the distribution's packages; this is the part that needs root
#
# Tools built with Go land in ${XDG_CACHE_HOME:-$HOME/.cache}/mosaic/tools/NAME-VERSION.
# When nothing is missing it prints nothing and runs neither apt nor go: the Makefile calls it every time.
# stdout stays empty; messages go to stderr. Exit: 0 all there, 1 could not be installed, 2 usage.
#
# The machine stays as it was: no new apt source or list, no service started or enabled, no `main`
# database cluster. Mosaic's dev run and tests start private servers from the installed binaries.
set -euo pipefail

step_ca_version=0.30.2
step_version=0.30.2
staticcheck_version=0.8.2
gofumpt_version=0.12.0

# Present while root's part is under way. Binaries appear on disk before their packages are configured,
# so without it a killed run would look complete.
pending=/var/cache/mosaic-setup.pending
policy=/usr/sbin/policy-rc.d
cluster_conf=/etc/postgresql-common/createcluster.conf

self=$(readlink -f "${BASH_SOURCE[0]}")
repo=${self%/deploy/dev/setup.sh}

tmp='' log='' build='' policy_is_ours='' cluster_conf_is_ours=''

say() { printf 'setup: %s\n' "$*" >&2; }

# die WHAT REMEDY: shows the end of the log, when there is one, and keeps it.
die() {
	say "$1"
	if [[ -s $log ]]; then
		say "the last lines of $log:"
		tail -n 20 "$log" | sed 's/^/    /' >&2
		log=''
	fi
	[[ -z ${2-} ]] || say "$2"
	exit 1
}

cleanup() {
	[[ -z $policy_is_ours ]] || rm -f "$policy"
	[[ -z $cluster_conf_is_ours ]] || sed -i '/# mosaic-setup$/d' "$cluster_conf" || true
	[[ -z $tmp ]] || rm -rf "$tmp"
	[[ -z $build ]] || rm -rf "$build"
	[[ -z $log ]] || rm -f "$log"
}

# quietly runs a command with its output in the log, and without our locks: a process that outlives us
# must not hold them.
quietly() {
	printf '+ %s\n' "$*" >>"$log"
	"$@" >>"$log" 2>&1 </dev/null 8>&- 9>&-
}

have() { command -v "$1" >/dev/null 2>&1; }

# --- What is missing: file tests only --------------------------------------------------------------

# Sets os_id and os_codename; lsb_release is not part of a minimal system.
read_os() {
	local key value
	os_id='' os_codename='' os_name='this system'
	[[ -r /etc/os-release ]] || return 0
	while IFS='=' read -r key value; do
		value=${value//\"/}
		case $key in
		ID) os_id=$value ;;
		VERSION_CODENAME) os_codename=$value ;;
		PRETTY_NAME) os_name=$value ;;
		esac
	done </etc/os-release
}

# Sets pg to the highest installed server version from 15 on, or to nothing.
find_postgres() {
	local dir version
	pg=''
	for dir in /usr/lib/postgresql/*/bin; do
		version=${dir#/usr/lib/postgresql/}
		version=${version%/bin}
		[[ $version =~ ^[0-9]+$ && -x $dir/postgres && -x $dir/initdb ]] || continue
		if ((version >= 15 && version > ${pg:-0})); then pg=$version; fi
	done
}

has_pgvector() {
	[[ -n $pg && -f /usr/share/postgresql/$pg/extension/vector.control && -f /usr/lib/postgresql/$pg/lib/vector.so ]]
}

has_valkey() {
	# An Ubuntu without a Valkey package gets Redis; Debian 12's Redis is too old to stand in for it.
	have valkey-server || { [[ $os_id == ubuntu ]] && have redis-server; }
}

# Sets missing to what the distribution must still supply for run or test.
find_missing() {
	local cc=${CC:-gcc}
	missing=()
	find_postgres
	[[ -n $pg ]] || missing+=(postgresql)
	has_pgvector || missing+=(pgvector)
	have openssl || missing+=(openssl)
	have curl || missing+=(curl)
	[[ -s /etc/ssl/certs/ca-certificates.crt ]] || missing+=(ca-certificates)
	if [[ $1 == test ]]; then
		has_valkey || missing+=(valkey-server)
		have busybox || missing+=(busybox) # its shell is the one of the CA's image
		[[ -x /usr/sbin/haproxy ]] || missing+=(haproxy)
		have "${cc%% *}" || missing+=(gcc)
		[[ -f /usr/include/stdlib.h ]] || missing+=(libc6-dev)
	fi
	# An interrupted run: its packages may be unpacked but not configured.
	if [[ -e $pending && ${#missing[@]} -eq 0 ]]; then missing+=('the rest of an interrupted set-up'); fi
}

misses() { [[ " ${missing[*]} " == *" $1 "* ]]; }

# --- Go ----------------------------------------------------------------------------------------------

# at_least HAVE WANT compares dotted versions numerically; rc and beta suffixes are ignored.
at_least() {
	local i
	local -a h w
	IFS=. read -r -a h <<<"${1%%[!0-9.]*}"
	IFS=. read -r -a w <<<"${2%%[!0-9.]*}"
	for i in 0 1 2; do
		((${h[i]:-0} == ${w[i]:-0})) || { ((${h[i]:-0} > ${w[i]:-0})); return; }
	done
}

require_go() {
	local word value want='' go root found='' remedy
	while read -r word value _; do
		if [[ $word == go ]]; then want=$value && break; fi
	done <"$repo/go.mod"
	have go || PATH=$PATH:/usr/local/go/bin
	remedy="put the Go project's own release $want or newer into /usr/local/go, with /usr/local/go/bin in PATH; distributions ship older ones"
	have go || die "Go $want or newer is needed and there is no go command in PATH or /usr/local/go/bin" "$remedy"
	go=$(readlink -f "$(command -v go)")
	root=${go%/bin/go}
	if [[ -r $root/VERSION ]]; then
		read -r found <"$root/VERSION"
		if at_least "${found#go}" "$want"; then return; fi
	fi
	# A wrapper, or an older Go that may fetch the toolchain go.mod asks for: only it can tell.
	value=$(cd "$repo" && go env GOVERSION 2>/dev/null) && found=$value
	at_least "${found#go}" "$want" || die "Go $want or newer is needed; $go is ${found:-of an unknown version}" "$remedy"
}

# go_tool NAME VERSION PACKAGE DURATION [BUILD FLAGS]
go_tool() {
	local name=$1 version=$2 package=$3 duration=$4 out=$tools/$1-$2
	shift 4
	[[ ! -x $out ]] || return 0
	mkdir -p "$tools"
	exec 8<"$tools"
	flock -n 8 || { say "another set-up is building tools in $tools; waiting for it" && flock 8; }
	if [[ ! -x $out ]]; then
		say "building $name $version with Go into $tools ($duration, once)"
		rm -rf "$tools"/.build-* # of killed runs: we hold the lock
		build=$(mktemp -d "$tools/.build-XXXXXX")
		log=$out.log
		: >"$log"
		# From / and without the caller's GOFLAGS, so that no go.mod, workspace or target of theirs applies.
		(cd / && quietly env -u GOOS -u GOARCH GO111MODULE=on GOWORK=off GOFLAGS= CGO_ENABLED=0 \
			GOBIN="$build" go install -trimpath "$@" "$package@v$version") ||
			die "could not build $name $version" "it comes through the Go module proxy: check the network (or GOPROXY), then run the same command again"
		mv -f "$build/$name" "$out"
		rm -rf "$build" "$log"
		build='' log=''
	fi
	exec 8<&-
}

# --- The distribution's packages (root) --------------------------------------------------------------

# Denies every service action while we install. It names this process, so if we are killed before we
# remove it, it denies nothing; the next run replaces it. A machine's own policy is left alone.
deny_services() {
	local stat
	if [[ -e $policy || -L $policy ]] && ! grep -qs mosaic-setup "$policy"; then return 0; fi
	read -r -a stat <"/proc/$$/stat"
	cat >"$policy.mosaic-setup" <<-POLICY
		#!/bin/sh
		# mosaic-setup: in force while process $$ installs packages; may be deleted.
		[ "\$(cut -d' ' -f22 /proc/$$/stat 2>/dev/null)" = "${stat[21]}" ] && exit 101
		exit 0
	POLICY
	chmod 755 "$policy.mosaic-setup"
	mv -f "$policy.mosaic-setup" "$policy"
	policy_is_ours=yes
}

# derive TYPE SUITE: the machine's own archive entry for its release, rewritten for another suite, so
# that mirror, keyring and options are the machine's. Copies of the sources are in $tmp/sources.
derive() {
	local type=$1 suite=$2 file line
	for file in "$tmp"/sources/*; do
		case $file in
		*.sources)
			line=$(awk -v code="$os_codename" -v type="$type" -v suite="$suite" '
				BEGIN { RS = ""; FS = "\n" }
				{
					split("", f); key = ""
					for (i = 1; i <= NF; i++) {
						if ($i ~ /^#/) continue
						if ($i ~ /^[ \t]/) { f[key] = f[key] "\n" $i; continue }
						key = tolower(substr($i, 1, index($i, ":") - 1))
						f[key] = substr($i, index($i, ":") + 1)
					}
					if (f["enabled"] ~ /no|false/ || f["uris"] ~ /cdrom:/) next
					if ((f["types"] " ") !~ /[ \t]deb[ \t]/) next
					if ((" " f["suites"] " ") !~ ("[ \t\n](" code "|stable|oldstable)[ \t\n]")) next
					if ((" " f["components"] " ") !~ /[ \t\n]main[ \t\n]/) next
					print "Types: " type; print "URIs:" f["uris"]; print "Suites: " suite
					print "Components:" f["components"]
					if ("signed-by" in f) print "Signed-By:" f["signed-by"]
					if ("trusted" in f) print "Trusted:" f["trusted"]
					exit
				}' "$file")
			;;
		*)
			line=$(awk -v code="$os_codename" -v type="$type" -v suite="$suite" '
				/^deb[ \t]/ {
					options = ""; rest = $0; sub(/#.*/, "", rest)
					if (match(rest, /\[[^]]*\]/)) {
						options = substr(rest, RSTART, RLENGTH) " "
						rest = substr(rest, 1, RSTART - 1) substr(rest, RSTART + RLENGTH)
					}
					n = split(rest, w)
					if (w[2] ~ /^cdrom:/ || w[3] !~ ("^(" code "|stable|oldstable)$")) next
					components = ""; main = 0
					for (i = 4; i <= n; i++) { components = components " " w[i]; if (w[i] == "main") main = 1 }
					if (main) { print type " " options w[2] " " suite components; exit }
				}' "$file")
			;;
		esac
		if [[ -n $line ]]; then
			printf '%s\n' "$line" >"$tmp/sources/mosaic-$type-$suite.${file##*.}"
			return 0
		fi
	done
	die "the apt sources of $os_name have no entry for $os_codename main to derive $suite from" \
		"add the archive's usual entry to /etc/apt/sources.list, then run the same command again"
}

# apt_private makes apt read a copy of the machine's configuration and sources, and keep lists and
# downloads in $tmp: what the machine knows about packages stays as it was.
apt_private() {
	local file
	mkdir -p "$tmp"/{sources,conf,lists/partial,cache/archives/partial,src}
	for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
		[[ -s $file ]] || continue
		sed '/^deb.*[[:space:]]cdrom:/d' "$file" >"$tmp/sources/${file##*/}"
	done
	for file in /etc/apt/apt.conf.d/*; do
		if [[ -f $file ]]; then cp "$file" "$tmp/conf/"; fi
	done
	cat >"$tmp/conf/zzz-mosaic" <<-CONF
		Dir::Etc::SourceList "/dev/null";
		Dir::Etc::SourceParts "$tmp/sources/";
		Dir::State::Lists "$tmp/lists/";
		Dir::Cache "$tmp/cache/";
		Dir::Cache::Archives "archives/";
		APT::Install-Recommends "false";
		APT::Get::Assume-Yes "true";
		Acquire::Retries "2";
		Acquire::Languages "none";
		Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
		Acquire::IndexTargets::deb::CNF::DefaultEnabled "false";
		DPkg::Lock::Timeout "600";
		DPkg::Use-Pty "false";
		DPkg::Options { "--force-confdef"; "--force-confold"; };
		# Hooks that would note the machine's own lists as refreshed.
		#clear APT::Update::Post-Invoke;
		#clear APT::Update::Post-Invoke-Success;
	CONF
	printf 'Dir::Etc::Parts "%s/conf/";\n' "$tmp" >"$tmp/apt.conf"
	# apt downloads as this user; without the right to write it falls back to root with a warning.
	chown _apt "$tmp/src" 2>/dev/null || true
	export APT_CONFIG=$tmp/apt.conf DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 LC_ALL=C
}

# One broken third-party source makes the update fail while ours is fine: what counts is whether the
# packages are found afterwards.
apt_update() { quietly apt-get -q update || true; }

candidate() {
	local answer
	answer=$(apt-cache policy "$1" 2>/dev/null)
	[[ $answer == *Candidate:* && $answer != *'Candidate: (none)'* ]]
}

network_hint="check this machine's network and apt sources (apt-get update), then run the same command again"

apt_install() {
	local package
	for package; do
		candidate "$package" || die "no package $package was found for $os_name" \
			"$network_hint$([[ $os_id != ubuntu ]] || echo '; Ubuntu needs the component universe')"
	done
	if quietly apt-get -q install "$@"; then return; fi
	# What a killed dpkg left half done.
	{ quietly apt-get -q --fix-broken install && quietly apt-get -q install "$@"; } ||
		die "could not install $*" "$network_hint"
}

# place FILE DIRECTORY: the file is there whole or not at all, also for a server that has it open.
place() {
	cp "$1" "$2/.mosaic-setup.tmp"
	chmod 644 "$2/.mosaic-setup.tmp"
	mv -f "$2/.mosaic-setup.tmp" "$2/${1##*/}"
}

build_pgvector() {
	local config=/usr/lib/postgresql/$pg/bin/pg_config extension=/usr/share/postgresql/$pg/extension
	local source file staged=$tmp/staged
	say "building pgvector for PostgreSQL $pg from the distribution's source package (about 30 seconds)"
	apt_install "postgresql-server-dev-$pg" dpkg-dev gcc libc6-dev make
	# apt checks the source against the signed index.
	(cd "$tmp/src" && quietly apt-get -q source --only-source pgvector) ||
		die 'could not fetch the source package pgvector' "$network_hint"
	source=$(find "$tmp/src" -mindepth 1 -maxdepth 1 -type d -name 'pgvector-*')
	# No bitcode (it serves only JIT inlining), no instructions beyond the architecture's base.
	{ quietly make -C "$source" -j2 OPTFLAGS= with_llvm=no PG_CONFIG="$config" &&
		quietly make -C "$source" OPTFLAGS= with_llvm=no PG_CONFIG="$config" DESTDIR="$staged" install; } ||
		die "could not build pgvector for PostgreSQL $pg" "install a package postgresql-$pg-pgvector, if you have a source for one"
	place "$staged/usr/lib/postgresql/$pg/lib/vector.so" "/usr/lib/postgresql/$pg/lib"
	for file in "$staged$extension"/vector--*.sql; do place "$file" "$extension"; done
	place "$staged$extension/vector.control" "$extension" # last: PostgreSQL offers the extension from here on
}

install_postgres() {
	# The metapackage knows the distribution's version.
	pg=$(apt-cache depends --important postgresql 2>/dev/null | sed -n 's/^ *|\{0,1\}Depends: postgresql-\([0-9]*\)$/\1/p' | head -n 1)
	[[ -n $pg ]] || die "no package postgresql was found for $os_name" "$network_hint"
	((pg >= 15)) || die "$os_name has PostgreSQL $pg; 15 or newer is needed" "install postgresql-17 from a source of your choice"
	# Its configuration file must exist before the server's package reads it. Whoever set the option keeps it.
	apt_install postgresql-common
	if [[ -f $cluster_conf ]] && ! grep -q '^[[:space:]]*create_main_cluster' "$cluster_conf"; then
		cluster_conf_is_ours=yes
		echo 'create_main_cluster = false # mosaic-setup' >>"$cluster_conf"
	fi
	apt_install "postgresql-$pg"
	[[ -z $cluster_conf_is_ours ]] || sed -i '/# mosaic-setup$/d' "$cluster_conf"
	cluster_conf_is_ours=''
}

install_valkey() {
	local package=valkey-server
	if [[ $os_id == ubuntu ]] && ! candidate valkey-server; then package=redis-server; fi
	apt_install "$package"
	# We use the binary only: neither now nor after a reboot is there to be a service.
	quietly update-rc.d "$package" disable || true
	quietly invoke-rc.d "$package" stop || true
}

install_haproxy() {
	apt_install haproxy
	quietly update-rc.d haproxy disable || true # as with Valkey
	quietly invoke-rc.d haproxy stop || true
}

install_packages() {
	local want=$1 package
	local -a plain=()
	have apt-get || die "missing: ${missing[*]}; this script can install on Debian 12, Debian 13 and Ubuntu 24.04 only" \
		'install PostgreSQL 15+ under /usr/lib/postgresql, pgvector, valkey-server, haproxy, busybox, openssl, curl and gcc by hand'
	exec 9</var/lib/dpkg # locked as a directory, so no lock file is left; dpkg's own locks are other files
	flock -n 9 || { say 'another set-up is installing packages; waiting for it' && flock 9; }
	find_missing "$want"
	((${#missing[@]} > 0)) || return 0

	say "installing for make $want: ${missing[*]} (one to three minutes, once)"
	rm -rf /var/tmp/mosaic-setup.?????? # of killed runs: we hold the lock
	[[ ! -f $cluster_conf ]] || sed -i '/# mosaic-setup$/d' "$cluster_conf"
	tmp=$(mktemp -d /var/tmp/mosaic-setup.XXXXXX)
	chmod 755 "$tmp"
	log=/var/log/mosaic-setup.log
	: >"$log"
	: >"$pending"
	deny_services
	apt_private
	quietly dpkg --configure -a || die 'dpkg cannot finish an earlier installation' 'run: dpkg --configure -a'
	find_missing "$want"

	# Debian 12 has Valkey in its backports only, and pgvector not at all: Debian 13's source serves.
	if [[ $os_codename == bookworm ]]; then
		! misses valkey-server || derive deb bookworm-backports
		! misses pgvector || derive deb-src trixie
	fi
	apt_update

	for package in openssl curl ca-certificates gcc libc6-dev busybox; do
		! misses "$package" || plain+=("$package")
	done
	((${#plain[@]} == 0)) || apt_install "${plain[@]}"
	! misses postgresql || install_postgres
	if misses pgvector; then
		if candidate "postgresql-$pg-pgvector"; then
			apt_install "postgresql-$pg-pgvector"
		else
			if [[ $os_codename != bookworm ]]; then
				derive deb-src "$os_codename"
				apt_update
			fi
			build_pgvector
		fi
	fi
	! misses valkey-server || install_valkey
	! misses haproxy || install_haproxy

	rm -f "$pending"
	find_missing "$want"
	((${#missing[@]} == 0)) || die "installed, but still not found: ${missing[*]}" 'this is a bug in deploy/dev/setup.sh: please report it with the log above'
	cleanup
	tmp='' log='' policy_is_ours=''
	exec 9<&-
}

# The same list for those who must ask somebody else to install it.
package_names() {
	local name version=${pg:-15} names=()
	case $os_codename in trixie) version=${pg:-17} ;; noble) version=${pg:-16} ;; esac
	for name in "${missing[@]}"; do
		case $name in
		postgresql) names+=("postgresql-$version") ;;
		pgvector)
			if [[ $os_codename == bookworm ]]; then
				names+=("postgresql-server-dev-$version dpkg-dev gcc libc6-dev make (to build trixie's source package pgvector)")
			else
				names+=("postgresql-$version-pgvector")
			fi
			;;
		valkey-server)
			if [[ $os_codename == bookworm ]]; then name+=' (from bookworm-backports)'; fi
			names+=("$name")
			;;
		*) names+=("$name") ;;
		esac
	done
	local IFS=,
	printf '%s' "${names[*]}" | sed 's/,/, /g'
}

require_packages() {
	local want=$1
	find_missing "$want"
	((${#missing[@]} > 0)) || return 0
	if ((EUID == 0)); then
		install_packages "$want"
	elif have sudo && sudo -n true 2>/dev/null; then
		sudo -n env ${http_proxy:+"http_proxy=$http_proxy"} ${https_proxy:+"https_proxy=$https_proxy"} \
			bash "$self" packages "$want"
		find_missing "$want"
		((${#missing[@]} == 0)) || die "still missing: ${missing[*]}" "run as root: $self packages $want"
	else
		say "missing for make $want: $(package_names)"
		die 'root is needed to install them, and sudo does not work without a password here' \
			"run once as root, for example with sudo: $self packages $want"
	fi
}

usage() {
	say 'usage: deploy/dev/setup.sh run|test|check, or: packages [run|test]'
	exit 2
}

main() {
	local mode=${1-}
	case $mode:$#:${2-} in
	run:1: | test:1: | check:1: | packages:1: | packages:2:run | packages:2:test) ;;
	*) usage ;;
	esac
	trap cleanup EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
	umask 022
	read_os
	if [[ $mode == packages ]]; then
		require_packages "${2:-test}"
		return
	fi

	tools=${XDG_CACHE_HOME:-${HOME:?is not set}/.cache}/mosaic/tools
	require_go
	if [[ $mode == run ]]; then
		require_packages run
		return
	fi
	require_packages test
	# step-ca without its optional databases: the tests use none of them, and the build is smaller.
	go_tool step-ca "$step_ca_version" github.com/smallstep/certificates/cmd/step-ca 'about 4 minutes' \
		-tags nobadger,nobadgerv1,nobadgerv2,nomysql -ldflags "-s -w -X main.Version=$step_ca_version"
	go_tool step "$step_version" github.com/smallstep/cli/cmd/step 'about 1 minute' \
		-tags nobadger,nobadgerv1,nobadgerv2,nomysql -ldflags "-s -w -X main.Version=$step_version"
	[[ $mode == check ]] || return 0
	go_tool staticcheck "$staticcheck_version" honnef.co/go/tools/cmd/staticcheck 'about 1 minute'
	go_tool gofumpt "$gofumpt_version" mvdan.cc/gofumpt 'about 20 seconds'
}

main "$@"
