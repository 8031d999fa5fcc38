package meta

import "time"

// Installation is what this registry is, once for all.
type Installation struct {
	// Name is the registry's own, random, and never changes.
	Name string
	// LogOrigin names the audit log; random, so that two logs never have one name. A fork of the log gives it another.
	LogOrigin string
	// OriginIndex is the index of the entry that began LogOrigin: 0, or that of the last fork.
	OriginIndex int64
	// ForkedFrom is the checkpoint that the last fork explains, empty if there was none.
	ForkedFrom string
	// PublishedCheckpoint is the last checkpoint that the operator told to have published, as the signed note.
	PublishedCheckpoint string
	// ReadOnly says why no writes are taken; empty if they are.
	ReadOnly string
	// ClusterUID is the UID of the kube-system namespace of the cluster whose operator manages the registry, or empty.
	ClusterUID string
	// Synced is true once an operator has said that all of its objects are here.
	Synced bool
	// Adopting is true between adopt-cluster and the first sync of the new cluster's operator.
	Adopting bool
}

const installationQuery = `SELECT name, log_origin, origin_index, forked_from, published_checkpoint, read_only, cluster_uid, synced, adopting FROM installation WHERE id = 1`

func (r *Reader) installation(query string) (i Installation, err error) {
	err = r.one(query, nil, func(row scanner) error {
		return row.Scan(&i.Name, &i.LogOrigin, &i.OriginIndex, &i.ForkedFrom, &i.PublishedCheckpoint, &i.ReadOnly, &i.ClusterUID, &i.Synced, &i.Adopting)
	})
	return i, err
}

// Installation reads the installation's row.
func (r *Reader) Installation() (Installation, error) { return r.installation(installationQuery) }

// Installation is Reader.Installation for the transactions of an operator: they come one after the other, also those
// about different organizations, or about all.
func (tx *Tx) Installation() (Installation, error) {
	return tx.installation(installationQuery + tx.forUpdate())
}

// InitInstallation makes the installation's row if there is none. The log's first origin becomes its name.
func (tx *Tx) InitInstallation(origin string, now time.Time) error {
	return tx.do(`INSERT INTO installation (id, name, log_origin, created_at) VALUES (1, $1, $1, $2) ON CONFLICT (id) DO NOTHING`, origin, toMicros(now))
}

// SetCluster records the cluster, which has yet to sync. Adopting lets its namespaces take over organizations by name.
func (tx *Tx) SetCluster(uid string, adopting bool) error {
	return tx.do(`UPDATE installation SET cluster_uid = $1, synced = FALSE, adopting = $2 WHERE id = 1`, uid, adopting)
}

// SetSynced records that the operator has synced.
func (tx *Tx) SetSynced() error {
	return tx.do(`UPDATE installation SET synced = TRUE, adopting = FALSE WHERE id = 1`)
}

// SetPublished records the last published checkpoint, and with a reason that nothing is written any more.
func (tx *Tx) SetPublished(checkpoint, readOnly string) error {
	return tx.do(`UPDATE installation SET published_checkpoint = $1, read_only = CASE WHEN read_only = '' THEN $2 ELSE read_only END WHERE id = 1`, checkpoint, readOnly)
}

// ForkLog gives the log another origin, which begins with the entry of the given index and explains a checkpoint. It
// needs Scope.LogExclusive. Writes are taken again.
func (tx *Tx) ForkLog(origin string, index int64, explained string) error {
	return tx.do(`UPDATE installation SET log_origin = $1, origin_index = $2, forked_from = $3, read_only = '' WHERE id = 1`, origin, index, explained)
}

// LogState is what every write has to know of the audit log.
type LogState struct {
	// Origin is that of the entries that the transaction appends.
	Origin string
	// ReadOnly says why the registry takes no writes; empty if it does.
	ReadOnly string
}

// LogStateQuery reads a LogState, as two columns that are empty before the installation is made: for engines that read
// more in the same statement.
const LogStateQuery = `COALESCE((SELECT log_origin FROM installation WHERE id = 1), ''), COALESCE((SELECT read_only FROM installation WHERE id = 1), '')`

// LogState is the log's state, which stays as it is until the transaction ends.
func (tx *Tx) LogState() (LogState, error) {
	if tx.knownLog != nil {
		return *tx.knownLog, nil
	}
	var s LogState
	err := tx.one(`SELECT `+LogStateQuery, nil, func(row scanner) error { return row.Scan(&s.Origin, &s.ReadOnly) })
	return s, err
}

// NextLogIndex returns the index that the next entry will get. It needs Scope.LogExclusive.
func (tx *Tx) NextLogIndex() (int64, error) {
	if tx.several {
		// One statement: the sequencer is not kept away.
		return tx.number(`SELECT COALESCE(MAX(idx), -1) + 1 + (SELECT COUNT(*) FROM audit_entries WHERE idx IS NULL) FROM audit_entries WHERE idx IS NOT NULL`)
	}
	state, err := tx.logState()
	if err != nil {
		return 0, err
	}
	pending, err := tx.number(`SELECT COUNT(*) FROM audit_entries WHERE id > $1`, state.lastID)
	return state.lastIndex + 1 + pending, err
}
