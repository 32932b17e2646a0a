package config

import (
	"errors"
	"net/url"
	"strconv"
	"strings"
)

// The ways of speaking to a collector.
const (
	OTLPOverHTTP = "http/protobuf"
	OTLPOverGRPC = "grpc"
)

// HeaderPairs are the headers of every export. Load has seen that they can be read.
func (t Telemetry) HeaderPairs() map[string]string {
	pairs, err := headerPairs(t.Headers.Reveal())
	if err != nil {
		return nil
	}
	return pairs
}

// SampledShare is how many of the traces are recorded, 0 to 1. Load has seen that it can be read.
func (t Telemetry) SampledShare() float64 {
	share, _, err := t.share()
	if err != nil {
		return 0
	}
	return share
}

// share reads the sampler; with an error, name is the setting that is wrong.
func (t Telemetry) share() (share float64, name string, err error) {
	switch strings.TrimPrefix(t.Sampler, "parentbased_") {
	case "always_on":
		return 1, "", nil
	case "always_off":
		return 0, "", nil
	case "traceidratio":
		share, err := strconv.ParseFloat(t.SamplerArg, 64)
		if err != nil || !(share >= 0 && share <= 1) {
			return 0, "OTEL_TRACES_SAMPLER_ARG", errors.New("it is a number from 0 to 1")
		}
		return share, "", nil
	}
	return 0, "OTEL_TRACES_SAMPLER", errors.New("it is always_on, always_off or traceidratio")
}

func headerPairs(s string) (map[string]string, error) {
	out := map[string]string{}
	if s == "" {
		return out, nil
	}
	for pair := range strings.SplitSeq(s, ",") {
		name, value, ok := strings.Cut(pair, "=")
		name = strings.TrimSpace(name)
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if !ok || !headerName(name) || err != nil || strings.ContainsAny(value, "\r\n") {
			return nil, errors.New("it is name=value, and more after commas; values are percent-encoded")
		}
		out[name] = value
	}
	return out, nil
}

func headerName(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return s != ""
}

// telemetry checks the settings of tracing: a gateway that would export nothing, unnoticed, does not start.
func (l *loader) telemetry(t Telemetry) {
	if t.Endpoint == "" {
		return
	}
	l.url("OTEL_EXPORTER_OTLP_ENDPOINT", t.Endpoint, "http", "https")
	if t.Protocol != OTLPOverHTTP && t.Protocol != OTLPOverGRPC {
		l.wrong("OTEL_EXPORTER_OTLP_PROTOCOL", "it is %s or %s", OTLPOverHTTP, OTLPOverGRPC)
	}
	if _, err := headerPairs(t.Headers.Reveal()); err != nil {
		l.wrong("OTEL_EXPORTER_OTLP_HEADERS", "%s", err)
	}
	if _, name, err := t.share(); err != nil {
		l.wrong(name, "%s", err)
	}
}
