package audit

import (
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/transparency-dev/merkle/rfc6962"
)

// LeafSize is the length of one leaf's data: the row's time, microseconds since 1970 in 8 bytes big endian, and the
// SHA-256 of the row. The time is there by itself so that a row that was dropped, or is outside an export's range,
// still has one that nobody can change.
const LeafSize = 8 + sha256.Size

// Leaf is the data of one leaf of a log. The leaf's hash is that of RFC 6962, section 2.1: SHA-256(0x00 || Leaf).
type Leaf [LeafSize]byte

// NewLeaf makes the leaf of an event that has its id and its time. Whatever cannot change in a row is in it; peer_id is
// not, because it becomes null with the peer.
func NewLeaf(e Event) Leaf {
	digest := sha256.Sum256(encode(make([]byte, 0, 512), e))
	return leafOf(e.CreatedAt, digest)
}

func leafOf(at time.Time, digest [sha256.Size]byte) (l Leaf) {
	binary.BigEndian.PutUint64(l[:], uint64(at.UnixMicro())) //nolint:gosec // two's complement is the encoding
	copy(l[8:], digest[:])
	return l
}

// Time is when the row was recorded.
func (l Leaf) Time() time.Time {
	return time.UnixMicro(int64(binary.BigEndian.Uint64(l[:]))).UTC() //nolint:gosec // as above
}

func (l Leaf) hash() []byte { return rfc6962.DefaultHasher.HashLeaf(l[:]) }

// encodingVersion is the first byte of what is hashed. Another encoding is another number, never a change of this one.
const encodingVersion = 1

// encode writes what is hashed of a row: the version, then the fields in this order. Ids are 16 bytes, zero for none;
// texts and byte strings are their length in 4 bytes, big endian, and themselves; numbers are 8 bytes, big endian; the
// duration is in microseconds. The time is beside the hash, in the leaf.
func encode(b []byte, e Event) []byte {
	text := func(s string) {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s))) //nolint:gosec // no column holds 4 GiB
		b = append(b, s...)
	}
	number := func(n int64) { b = binary.BigEndian.AppendUint64(b, uint64(n)) } //nolint:gosec // two's complement
	b = append(b, encodingVersion)
	b = append(b, e.ID[:]...)
	text(e.RequestID)
	text(string(e.Direction))
	text(e.Actor)
	b = append(b, e.PeerID[:]...) // of the writer; a row that is read back has it in peer_ref
	text(e.PeerName)
	b = append(b, e.GrantID[:]...)
	b = append(b, e.SubjectUserID[:]...)
	text(string(e.Fingerprint))
	text(e.RemoteAddress)
	text(e.Verb)
	text(e.Resource)
	number(int64(e.StatusCode))
	text(string(e.Outcome))
	text(e.DeniedReason)
	text(e.Detail)
	text(string(e.QueryHash))
	number(int64(e.RowsOut))
	number(e.BytesOut)
	number(e.Duration.Microseconds())
	number(int64(max(e.Occurrences, 1)))
	return b
}
