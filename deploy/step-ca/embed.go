// Package stepca holds what a Step-CA needs to serve a federation: the certificate template of the provisioner
// mosaic-fed, as a file for the step command line and as text for the authority that runs in process.
package stepca

import (
	_ "embed"
	"strings"

	"github.com/mosaicstack/gateway/internal/identity"
)

//go:embed templates/mosaic-fed.tpl
var federationTemplate string

// FederationTemplate is the template of the provisioner mosaic-fed for an arc that identity.ParseArc made. For
// identity.DefaultArc it is the file templates/mosaic-fed.tpl, byte for byte.
func FederationTemplate(arc identity.Arc) string {
	return strings.ReplaceAll(federationTemplate, identity.DefaultArc.String(), arc.String())
}
