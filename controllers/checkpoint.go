package controllers

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/tidelock/tidelock/registry/audit"
)

// CheckpointLabel on a ConfigMap says that it is a published checkpoint of the registry's audit log: CheckpointLatest, or
// CheckpointDaily for the one that is kept of a day. OriginLabel is the part of the log's origin behind the slash.
const (
	CheckpointLabel = "registry.tidelock.dev/audit-checkpoint"
	OriginLabel     = "registry.tidelock.dev/audit-origin"

	CheckpointLatest = "latest"
	CheckpointDaily  = "daily"
)

// Keys of the data of such a ConfigMap: the signed note, the public keys that have signed it, one a line, and for people
// what the note says, and when it was published (RFC 3339).
const (
	dataCheckpoint = "checkpoint"
	dataPublicKeys = "publicKeys"
	dataOrigin     = "origin"
	dataSize       = "size"
	dataTime       = "time"
)

// checkpointPrefix begins the names of the ConfigMaps.
const checkpointPrefix = "tidelock-checkpoint-"

// keptLatest is how many checkpoints are kept beside those of each day.
const keptLatest = 10

// publication is a published checkpoint.
type publication struct {
	audit.Checkpoint
	// note is the signed checkpoint, keys the public keys that have signed it.
	note, keys []byte
	// at is when it was published by the operator's clock, created the same by the API server's.
	at, created time.Time
	daily       bool
}

// originPattern is what a log is called; the part behind the slash names its ConfigMaps.
var originPattern = regexp.MustCompile(`^tidelock/([0-9a-f]{32})$`)

func checkpointName(c audit.Checkpoint) string {
	return fmt.Sprintf("%s%s-%d", checkpointPrefix, strings.TrimPrefix(c.Origin, "tidelock/"), c.Size)
}

// configMap is the object that publishes a checkpoint.
func (p publication) configMap(namespace string) *corev1.ConfigMap {
	kept := CheckpointLatest
	if p.daily {
		kept = CheckpointDaily
	}
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: checkpointName(p.Checkpoint),
			Labels: map[string]string{
				"app.kubernetes.io/name": "tidelock", CheckpointLabel: kept, OriginLabel: strings.TrimPrefix(p.Origin, "tidelock/"),
			},
		},
		Immutable: ptr.To(true),
		Data: map[string]string{
			dataCheckpoint: string(p.note), dataPublicKeys: string(p.keys),
			dataOrigin: p.Origin, dataSize: strconv.FormatInt(p.Size, 10), dataTime: p.at.UTC().Format(time.RFC3339Nano),
		},
	}
}

// readPublication reads what configMap wrote, and checks that the keys in it have signed it.
func readPublication(object *corev1.ConfigMap) (p publication, err error) {
	p = publication{
		note: []byte(object.Data[dataCheckpoint]), keys: []byte(object.Data[dataPublicKeys]),
		created: object.CreationTimestamp.Time, daily: object.Labels[CheckpointLabel] != CheckpointLatest,
	}
	if p.at, err = time.Parse(time.RFC3339Nano, object.Data[dataTime]); err != nil {
		return p, fmt.Errorf("its time is none: %w", err)
	}
	known, err := audit.ParsePublicKeys(p.keys)
	if err != nil {
		return p, fmt.Errorf("its public keys: %w", err)
	}
	if p.Checkpoint, _, err = audit.OpenCheckpoint(p.note, known); err != nil {
		return p, err
	}
	if !originPattern.MatchString(p.Origin) || checkpointName(p.Checkpoint) != object.Name {
		return p, errors.New("it is the checkpoint of another name")
	}
	return p, nil
}

// latest returns the checkpoint that was published last, nil if there is none. The sizes of a log only grow; of several
// logs it is the one whose longest checkpoint is the youngest.
func latest(list []publication) *publication {
	longest := map[string]*publication{}
	for i := range list {
		if p := &list[i]; longest[p.Origin] == nil || longest[p.Origin].Size < p.Size {
			longest[p.Origin] = p
		}
	}
	var last *publication
	for _, p := range longest {
		if last == nil || last.created.Before(p.created) || last.created.Equal(p.created) && last.at.Before(p.at) {
			last = p
		}
	}
	return last
}

// signers returns those of some public keys, one a line, that have signed a note.
func signers(keys, signed []byte) []byte {
	var found []byte
	for line := range bytes.Lines(keys) {
		if known, err := audit.ParsePublicKeys(line); err == nil {
			if _, _, err := audit.OpenCheckpoint(signed, known); err == nil {
				found = append(append(found, bytes.TrimSpace(line)...), '\n')
			}
		}
	}
	return found
}

func sameDay(a, b time.Time) bool {
	return a.UTC().Format(time.DateOnly) == b.UTC().Format(time.DateOnly)
}
