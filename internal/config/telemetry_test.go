package config_test

import (
	"maps"
	"strings"
	"testing"

	"github.com/mosaicstack/gateway/internal/config"
	"github.com/mosaicstack/gateway/internal/fault"
)

func TestTracingSettings(t *testing.T) {
	t.Parallel()
	const endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318"
	for name, test := range map[string]struct {
		env   []string
		share float64
		wrong string
	}{
		"none":             {nil, 1, ""},
		"a collector":      {[]string{endpoint}, 1, ""},
		"nothing recorded": {[]string{endpoint, "OTEL_TRACES_SAMPLER=always_off"}, 0, ""},
		"a share":          {[]string{endpoint, "OTEL_TRACES_SAMPLER=parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG=0.25"}, 0.25, ""},
		"too much":         {[]string{endpoint, "OTEL_TRACES_SAMPLER=traceidratio", "OTEL_TRACES_SAMPLER_ARG=2"}, 0, "OTEL_TRACES_SAMPLER_ARG"},
		"not a number":     {[]string{endpoint, "OTEL_TRACES_SAMPLER=traceidratio", "OTEL_TRACES_SAMPLER_ARG=NaN"}, 0, "OTEL_TRACES_SAMPLER_ARG"},
		"another sampler":  {[]string{endpoint, "OTEL_TRACES_SAMPLER=jaeger_remote"}, 0, "OTEL_TRACES_SAMPLER"},
		"no URL":           {[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=collector:4317"}, 1, "OTEL_EXPORTER_OTLP_ENDPOINT"},
		"another protocol": {[]string{endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL=http/json"}, 1, "OTEL_EXPORTER_OTLP_PROTOCOL"},
		"broken headers":   {[]string{endpoint, "OTEL_EXPORTER_OTLP_HEADERS=the-secret-alone"}, 1, "OTEL_EXPORTER_OTLP_HEADERS"},
		"a forged header":  {[]string{endpoint, "OTEL_EXPORTER_OTLP_HEADERS=a=b%0d%0ac:d"}, 1, "OTEL_EXPORTER_OTLP_HEADERS"},
	} {
		c, err := config.Load(test.env, config.Local)
		if test.wrong == "" {
			if err != nil || c.Telemetry.SampledShare() != test.share {
				t.Errorf("%s: %v, share %v", name, err, c.Telemetry.SampledShare())
			}
			continue
		}
		problems := fault.From(err).Problems
		if len(problems) != 1 || problems[0].Path != test.wrong || strings.Contains(problems[0].Detail, "the-secret") {
			t.Errorf("%s: %v", name, problems)
		}
	}
	c, err := config.Load([]string{endpoint, "OTEL_EXPORTER_OTLP_HEADERS=authorization=Bearer%20abc%3D, x-tenant=ours"}, config.Local)
	want := map[string]string{"authorization": "Bearer abc=", "x-tenant": "ours"}
	if got := c.Telemetry.HeaderPairs(); err != nil || !maps.Equal(got, want) {
		t.Errorf("%v %v", got, err)
	}
}
