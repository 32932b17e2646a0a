package scope

import "slices"

// Resource names one kind of row a gateway holds.
type Resource string

// The resources there are.
const (
	Tasks       Resource = "tasks"
	Notes       Resource = "notes"
	Memory      Resource = "memory"
	Credentials Resource = "credentials"
	APIKeys     Resource = "api_keys"
)

// All lists every resource, in the order they are documented in.
func All() []Resource { return []Resource{Tasks, Notes, Memory, Credentials, APIKeys} }

// Known tells whether s names a resource. Names are exact: no case folding, no spaces.
func Known(s string) bool { return slices.Contains(All(), Resource(s)) }

// Sensitive tells whether rows of r stand for secrets: a grant over them needs an admin's approval first, and
// answers carry metadata only.
func (r Resource) Sensitive() bool { return r == Credentials || r == APIKeys }
