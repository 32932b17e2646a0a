package stepca_test

import (
	"os"
	"strings"
	"testing"

	stepca "github.com/mosaicstack/gateway/deploy/step-ca"
	"github.com/mosaicstack/gateway/internal/identity"
)

func TestFederationTemplateOfTheDefaultArcIsTheFile(t *testing.T) {
	t.Parallel()
	file, err := os.ReadFile("templates/mosaic-fed.tpl")
	if err != nil {
		t.Fatal(err)
	}
	if stepca.FederationTemplate(identity.DefaultArc) != string(file) {
		t.Error("the command line and the authority in process sign by different templates")
	}
}

func TestFederationTemplateOfAnotherArc(t *testing.T) {
	t.Parallel()
	got := stepca.FederationTemplate("1.2.3.4")
	if strings.Contains(got, "99999") {
		t.Error("the placeholder is still there")
	}
	for _, id := range []string{`"1.2.3.4.1"`, `"1.2.3.4.2"`} {
		if strings.Count(got, id) != 1 {
			t.Errorf("the extension %s is there %d times", id, strings.Count(got, id))
		}
	}
}

// What the requester writes must not reach a certificate. The one mention of these variables is the comment that
// forbids them.
func TestFederationTemplatePrintsNothingOfTheRequest(t *testing.T) {
	t.Parallel()
	_, code, found := strings.Cut(stepca.FederationTemplate(identity.DefaultArc), "*/ -}}")
	if !found {
		t.Fatal("the template has no comment at its head")
	}
	for _, forbidden := range []string{".Insecure", ".Subject", ".SANs", ".Webhooks", "<no value>"} {
		if strings.Contains(code, forbidden) {
			t.Errorf("the template uses %s", forbidden)
		}
	}
}
