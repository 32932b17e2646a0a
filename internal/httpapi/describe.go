package httpapi

import (
	"net/http"
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// unsecured is the security of an endpoint that needs no token of this gateway.
var unsecured = []map[string][]string{{}}

// describe adds the endpoints that are no huma operations to the API's description: enrollment, whose bodies are
// JSON or PEM, and health.
func (a *api) describe(oas *huma.OpenAPI) {
	describeHealth(oas)
	if a.Enroll != nil {
		describeEnrollment(oas)
	}
}

func describeEnrollment(oas *huma.OpenAPI) {
	registry := oas.Components.Schemas
	schema := func(example any) *huma.Schema { return registry.Schema(reflect.TypeOf(example), true, "") }
	text := &huma.Schema{Type: huma.TypeString}
	problem := func(codes ...string) map[string]*huma.Response {
		out := map[string]*huma.Response{}
		for _, code := range codes {
			out[code] = &huma.Response{Description: "Refused: see code and hint", Content: map[string]*huma.MediaType{
				"application/problem+json": {Schema: &huma.Schema{Ref: "#/components/schemas/Problem"}},
			}}
		}
		return out
	}
	token := &huma.Param{Name: "token", In: "path", Required: true, Description: "the enrollment token", Schema: text}

	type EnrollmentRequest struct {
		CSR string `json:"csr" doc:"PKCS #10 in PEM; only its public key counts"`
		TTL *int64 `json:"ttl_seconds,omitempty" minimum:"60" maximum:"31536000"`
	}
	type EnrollmentWithToken struct {
		Token string `json:"token"`
		EnrollmentRequest
	}
	redeem := func(path, id string, params []*huma.Param, body any, pem bool) {
		content := map[string]*huma.MediaType{typeJSON: {Schema: schema(body)}}
		if pem {
			content["application/x-pem-file"] = &huma.MediaType{Schema: text}
			content["application/pkcs10"] = &huma.MediaType{Schema: text}
		}
		responses := problem("400", "403", "404", "409", "410", "413", "415", "422", "429", "502", "503")
		responses["201"] = &huma.Response{Description: "Enrolled", Content: map[string]*huma.MediaType{
			typeJSON: {Schema: schema(issuedBody{})}, typePEMChain: {Schema: text},
		}}
		oas.AddOperation(&huma.Operation{
			Method: http.MethodPost, Path: path, OperationID: id, Tags: []string{"enrollment"}, Security: unsecured,
			Summary:     "Redeem an enrollment token for a certificate, once",
			Parameters:  append(params, &huma.Param{Name: "Idempotency-Key", In: "header", Schema: text, Description: "the same key, token and request get the same answer again"}),
			RequestBody: &huma.RequestBody{Required: true, Content: content}, Responses: responses,
		})
	}
	redeem("/api/federation/enrollment", "enrollment-redeem", nil, EnrollmentWithToken{}, false)
	redeem("/api/federation/enrollment/{token}", "enrollment-redeem-path", []*huma.Param{token}, EnrollmentRequest{}, true)

	responses := problem("404", "410", "429")
	responses["200"] = &huma.Response{Description: "What the URL is, and what to run", Content: map[string]*huma.MediaType{"text/plain": {Schema: text}, "text/html": {Schema: text}}}
	oas.AddOperation(&huma.Operation{
		Method: http.MethodGet, Path: "/api/federation/enrollment/{token}", OperationID: "enrollment-explain", Tags: []string{"enrollment"},
		Security: unsecured, Summary: "Explain an enrollment URL to a person; never spends it", Parameters: []*huma.Param{token}, Responses: responses,
	})
	list := problem("503")
	list["200"] = &huma.Response{Description: "The list, in DER", Content: map[string]*huma.MediaType{typeCRL: {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}}}
	oas.AddOperation(&huma.Operation{
		Method: http.MethodGet, Path: "/api/federation/crl", OperationID: "federation-crl", Tags: []string{"enrollment"},
		Security: unsecured, Summary: "The CA's certificate revocation list (RFC 5280)", Responses: list,
	})
}

func describeHealth(oas *huma.OpenAPI) {
	for id, summary := range map[string]string{
		"health": "How the gateway is", "health-live": "Whether the process answers", "health-ready": "Whether the gateway serves",
	} {
		content := map[string]*huma.MediaType{typeJSON: {Schema: oas.Components.Schemas.Schema(reflect.TypeFor[Report](), true, "")}}
		oas.AddOperation(&huma.Operation{
			Method: http.MethodGet, Path: "/" + strings.Replace(id, "-", "/", 1), OperationID: id, Tags: []string{"health"}, Security: unsecured, Summary: summary,
			Responses: map[string]*huma.Response{
				"200": {Description: "ok or degraded", Content: content}, "503": {Description: "down", Content: content},
			},
		})
	}
}
