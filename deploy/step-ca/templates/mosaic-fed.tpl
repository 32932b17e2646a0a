{{- /*
mosaic-fed.tpl: the X.509 template of the provisioner "mosaic-fed" (Step-CA 0.30).

  step ca provisioner add mosaic-fed --type JWK --create \
    --x509-template mosaic-fed.tpl --x509-min-dur 60s --x509-max-dur 8760h --x509-default-dur 24h --disable-renewal

It signs federation client certificates and nothing else. Everything in them comes from claims of the signing
token, which only the gateway can mint; of the certificate request only the public key is used. Never print
anything from .Insecure, .Subject or .SANs here: the requester writes those.

Claims:
  mosaic_grant_id          required  UUID in lower case   -> 1.3.6.1.4.1.99999.1 and the common name
  mosaic_subject_user_id   required  UUID in lower case   -> 1.3.6.1.4.1.99999.2
  mosaic_serial_number     optional  decimal string       -> the serial number
  mosaic_federation_host   optional  host name or address -> spiffe://HOST/grant/GRANT/user/USER

A claim that is missing or malformed ends in fail: text/template would print nothing for it, and the CA would sign a
certificate with a damaged extension. A claim's kind is checked before its text, because a list or a number must
not reach a string function. The arc is 1.3.6.1.4.1.99999; to use one of your own, replace it throughout.
*/ -}}
{{- $uuid := "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$" -}}
{{- $label := "[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?" -}}
{{- $host := printf "^(%s(\\.%s)*|\\[[0-9a-f:.]{2,45}\\])$" $label $label -}}

{{- $grant := get .Token "mosaic_grant_id" -}}
{{- if not (hasKey .Token "mosaic_grant_id") -}}
  {{- fail "mosaic-fed: the token has no claim mosaic_grant_id" -}}
{{- else if not (kindIs "string" $grant) -}}
  {{- fail "mosaic-fed: the claim mosaic_grant_id is not a string" -}}
{{- else if not (regexMatch $uuid $grant) -}}
  {{- fail "mosaic-fed: the claim mosaic_grant_id is not a UUID in lower case" -}}
{{- end -}}

{{- $user := get .Token "mosaic_subject_user_id" -}}
{{- if not (hasKey .Token "mosaic_subject_user_id") -}}
  {{- fail "mosaic-fed: the token has no claim mosaic_subject_user_id" -}}
{{- else if not (kindIs "string" $user) -}}
  {{- fail "mosaic-fed: the claim mosaic_subject_user_id is not a string" -}}
{{- else if not (regexMatch $uuid $user) -}}
  {{- fail "mosaic-fed: the claim mosaic_subject_user_id is not a UUID in lower case" -}}
{{- end -}}

{{- $serial := "" -}}
{{- if hasKey .Token "mosaic_serial_number" -}}
  {{- $serial = get .Token "mosaic_serial_number" -}}
  {{- if not (kindIs "string" $serial) -}}
    {{- fail "mosaic-fed: the claim mosaic_serial_number is not a string" -}}
  {{- else if not (regexMatch "^[1-9][0-9]{0,38}$" $serial) -}}
    {{- fail "mosaic-fed: the claim mosaic_serial_number is not a decimal number of 1 to 39 digits" -}}
  {{- end -}}
{{- end -}}

{{- $domain := "" -}}
{{- if hasKey .Token "mosaic_federation_host" -}}
  {{- $domain = get .Token "mosaic_federation_host" -}}
  {{- if not (kindIs "string" $domain) -}}
    {{- fail "mosaic-fed: the claim mosaic_federation_host is not a string" -}}
  {{- else if or (gt (len $domain) 253) (not (regexMatch $host $domain)) -}}
    {{- fail "mosaic-fed: the claim mosaic_federation_host is not a host name or address in lower case" -}}
  {{- end -}}
{{- end -}}
{
  "subject": {"commonName": {{ toJson $grant }}},
{{- if $serial }}
  "serialNumber": {{ toJson $serial }},
{{- end }}
{{- if $domain }}
  "uris": [{{ toJson (printf "spiffe://%s/grant/%s/user/%s" $domain $grant $user) }}],
{{- end }}
  "keyUsage": ["digitalSignature"],
  "extKeyUsage": ["clientAuth"],
  "basicConstraints": {"isCA": false},
  "extensions": [
    {"id": "1.3.6.1.4.1.99999.1", "critical": false, "value": {{ toJson (asn1Marshal $grant "utf8") }}},
    {"id": "1.3.6.1.4.1.99999.2", "critical": false, "value": {{ toJson (asn1Marshal $user "utf8") }}}
  ]
}
