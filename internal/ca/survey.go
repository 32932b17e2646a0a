package ca

import "time"

// Survey is what a CA tells of the provisioners that a gateway signs with. It is for whoever has to find out what is
// wrong; a use case asks Authority.
type Survey struct {
	Clock      time.Time // the CA's, to the second; zero when it does not tell
	Seen       time.Time // ours, when the CA's answer came
	Federation SurveyedProvisioner
	Server     SurveyedProvisioner
}

// SurveyedProvisioner is one of them.
type SurveyedProvisioner struct {
	Name     string
	Missing  error // why there is none of this name; the rest is empty then
	Key      error // why its key cannot be used by us; nil when it can
	Shortest time.Duration
	Longest  time.Duration
	Renews   bool // whether the CA renews what it signed by itself, asking nobody
}
