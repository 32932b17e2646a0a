package identity

import (
	"encoding/asn1"
	"math"
	"strconv"
	"strings"

	"github.com/mosaicstack/gateway/internal/fault"
)

// DefaultArc is a placeholder under the private enterprise arc (RFC 9371). An organisation that registers its
// own number sets MOSAIC_OID_ARC; during the change both arcs stand in Profile.Arcs.
const DefaultArc Arc = "1.3.6.1.4.1.99999"

// The leaves under an arc.
const (
	grantLeaf = 1 // arc.1: the grant's id
	userLeaf  = 2 // arc.2: the subject user's id
)

// maxArcs bounds how deep an arc may be: enough for any registered one, and an OID stays readable.
const maxArcs = 24

// ErrArc is the fault of an object identifier that cannot be the federation's arc.
var ErrArc = &fault.Fault{
	Kind:   fault.Invalid,
	Code:   "oid_arc_invalid",
	Detail: "the OID arc is not usable",
	Hint:   "set MOSAIC_OID_ARC to an arc of your own, such as " + string(DefaultArc),
}

// Arc is the object identifier, in dotted decimals, under which the two claims of a federation certificate
// live. It is a string so that it compares and serves as a constant. Make one with ParseArc.
type Arc string

// ParseArc checks that s is an object identifier in its shortest dotted form (ITU-T X.660) which may carry
// the two claims: not one that belongs to X.509 itself, to PKIX or to Step-CA. The error is ErrArc.
func ParseArc(s string) (Arc, error) {
	parts := strings.Split(s, ".")
	if len(parts) < 3 || len(parts) > maxArcs {
		return "", ErrArc.With("the OID arc has %d components, 3 to %d are possible", len(parts), maxArcs)
	}
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 10, 31)
		if err != nil || strconv.FormatUint(n, 10) != part {
			return "", ErrArc.With("component %d of the OID arc is not a plain decimal up to %d", i+1, math.MaxInt32)
		}
		if i == 0 && n > 2 || i == 1 && parts[0] != "2" && n > 39 {
			return "", ErrArc.With("component %d of the OID arc is out of range", i+1)
		}
	}
	for _, taken := range []string{"2.5.29", "1.3.6.1.5.5.7", "1.3.6.1.4.1.37476.9000.64"} {
		if within(s, taken) || within(taken, s) {
			return "", ErrArc.With("the OID arc overlaps %s, which has a meaning already", taken)
		}
	}
	return Arc(s), nil
}

// within reports whether the identifier a lies at or below the identifier b.
func within(a, b string) bool { return strings.HasPrefix(a+".", b+".") }

// String is the arc in dotted decimals.
func (a Arc) String() string { return string(a) }

// UnmarshalText reads an arc from configuration.
func (a *Arc) UnmarshalText(text []byte) error {
	arc, err := ParseArc(string(text))
	if err != nil {
		return err
	}
	*a = arc
	return nil
}

// Grant is the identifier of the extension that names the grant.
func (a Arc) Grant() asn1.ObjectIdentifier { return a.leaf(grantLeaf) }

// User is the identifier of the extension that names the subject user.
func (a Arc) User() asn1.ObjectIdentifier { return a.leaf(userLeaf) }

// leaf gives arc.n. An Arc that ParseArc did not make may give an identifier that matches nothing.
func (a Arc) leaf(n int) asn1.ObjectIdentifier {
	oid := make(asn1.ObjectIdentifier, 0, strings.Count(string(a), ".")+2)
	for part := range strings.SplitSeq(string(a), ".") {
		v, err := strconv.Atoi(part)
		if err != nil {
			return nil
		}
		oid = append(oid, v)
	}
	return append(oid, n)
}
