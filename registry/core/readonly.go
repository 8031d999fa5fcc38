package core

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
)

// ManagedReadonlySuperuser is a readonly superuser as a Kubernetes object declares it.
type ManagedReadonlySuperuser struct {
	// Cluster is the UID of the cluster's kube-system namespace.
	Cluster string
	// Manager has no namespace.
	Manager domain.ManagedBy
	// Applied names who applied the spec, if it is about the manager's generation.
	Applied domain.Applied
	// Rewound marks an older generation that an uncached read of the API server confirmed (a restored etcd).
	Rewound bool
	Subject domain.Subject
	Access  domain.ReadonlyAccess
	// ExpiresAt is when the grant ends by itself; zero if it does not. A time that has passed makes a grant without effect.
	ExpiresAt time.Time
	// Credentials asks for an account of the subject, a RegistryUser without a password, that tokens can be made for.
	Credentials bool
	// TokenID is the token that the object has now: the grant's older ones are revoked. Empty if it has none.
	TokenID string
}

// ReadonlySuperuserStatus is a grant with what the registry knows of its subject.
type ReadonlySuperuserStatus struct {
	domain.ReadonlySuperuser
	// Active is false for a grant that has expired.
	Active bool
	// Resolved is false for a RegistryUser that does not exist.
	Resolved bool
	// OwnAccount is true where the account was made for the grant.
	OwnAccount bool
	// Tokens are those that were made for the grant, the oldest first.
	Tokens []domain.AccountToken
}

// maxGrantTokens bounds the tokens of a grant. A new one takes the place of the oldest that the object does not have.
const maxGrantTokens = 5

// grantToken is the title of the tokens of a grant.
const grantToken = "readonly superuser"

// grantOf finds the grant of a Kubernetes object. A grant belongs to no organization.
func grantOf(m domain.ManagedBy) finder[meta.ReadonlySuperuser] {
	return func(r *meta.Reader) (*meta.ReadonlySuperuser, string, error) {
		g, err := r.ManagedReadonlySuperuser(m.Kind, m.Name)
		return found(&g, "", err)
	}
}

// PutManagedReadonlySuperuser makes a grant what a Kubernetes object declares. It is idempotent and fenced as
// PutManagedPolicy is. CONFLICT if another object has a grant of the same subject, naming it; if the subject is a superuser;
// and if credentials are asked for one who has a password.
func (c *Core) PutManagedReadonlySuperuser(ctx context.Context, caller domain.Caller, m ManagedReadonlySuperuser) (status ReadonlySuperuserStatus, err error) {
	if err := c.validateGrant(m); err != nil {
		return status, err
	}
	err = writeManaged(ctx, c, caller, m.Cluster, "", grantOf(m.Manager), func(ch *change, present *meta.ReadonlySuperuser) error {
		var before *domain.ManagedBy
		if present != nil {
			before = &present.Manager
		}
		if err := ch.fence(m.Manager, m.Rewound, before); err != nil {
			return err
		}
		g, err := ch.putGrant(present, m)
		if err == nil {
			status, err = statusOfGrant(&ch.Reader, g, ch.now)
		}
		return err
	})
	return status, err
}

func (c *Core) validateGrant(m ManagedReadonlySuperuser) error {
	if err := validateManager(m.Cluster, m.Manager); err != nil {
		return err
	}
	if m.Manager.Kind != domain.KindReadonlySuperuser {
		return domain.Errorf(domain.CodeInvalid, "a %s makes nobody a readonly superuser", m.Manager.Kind)
	}
	if err := m.Subject.Validate(); err != nil {
		return err
	}
	if _, err := domain.ParseReadonlyAccess(string(m.Access)); err != nil {
		return err
	}
	registryUser := m.Subject.Kind == domain.SubjectRegistryUser
	if m.Credentials && !registryUser {
		return domain.Errorf(domain.CodeInvalid, "the registry makes credentials for a %s only; a %s has its own", domain.SubjectRegistryUser, m.Subject.Kind)
	}
	if registryUser && slices.Contains(c.options.Superusers, m.Subject.Name) {
		return domain.Errorf(domain.CodeConflict, "user %s is a superuser by the registry's configuration; take the name out of superusers, or put it into global-readonly-superusers, first", m.Subject.Name)
	}
	return nil
}

// putGrant creates or changes the object's grant. Another object of the same name takes over the grant of the same subject;
// else the old grant is revoked.
func (ch *change) putGrant(present *meta.ReadonlySuperuser, m ManagedReadonlySuperuser) (g domain.ReadonlySuperuser, err error) {
	var last int64
	sameObject := present != nil && present.Manager.UID == m.Manager.UID
	if sameObject {
		last = present.Manager.Generation
	}
	metadata := attribution(m.Manager, m.Applied, last)
	if present != nil && present.Subject != m.Subject {
		if err := ch.revokeGrant(present.ReadonlySuperuser, applicant(m.Manager, m.Applied)); err != nil {
			return g, err
		}
		if sameObject {
			if err := ch.ReviveManager(m.Manager.UID); err != nil {
				return g, err
			}
		}
		present = nil
	}
	if present == nil {
		return ch.createGrant(m, metadata)
	}
	before := present.ReadonlySuperuser
	g = before
	g.Access, g.ExpiresAt, g.Credentials, g.Manager = m.Access, m.ExpiresAt.Truncate(time.Microsecond), m.Credentials, m.Manager
	known := sameObject && last == m.Manager.Generation
	if known {
		g.Manager.RevisionClaimed = before.Manager.RevisionClaimed
	}
	if !sameObject {
		if err := ch.RetireManager(before.Manager.UID, ch.now); err != nil {
			return g, err
		}
		metadata["adopted_from_uid"] = before.Manager.UID
	}
	if g.Ended && g.InForce(ch.now) {
		g.Ended = false
	}
	changed := g.Access != before.Access || !g.ExpiresAt.Equal(before.ExpiresAt) || g.Credentials != before.Credentials
	if changed {
		maps.Copy(metadata, grantValues("previous_", before))
	}
	if changed || !known {
		ch.logGrant(audit.KindChangeReadonly, g, metadata)
	}
	if changed {
		if err := ch.endGrantEpochs(g.Subject); err != nil {
			return g, err
		}
	}
	if err := ch.setCredentials(&g, before.Credentials, m.TokenID); err != nil {
		return g, err
	}
	return g, ch.UpdateReadonlySuperuser(g)
}

func (ch *change) createGrant(m ManagedReadonlySuperuser, metadata audit.Metadata) (g domain.ReadonlySuperuser, err error) {
	switch other, err := ch.ReadonlySuperuserOf(m.Subject); {
	case err == nil:
		return g, domain.Errorf(domain.CodeConflict, "%s is a readonly superuser already, by %s; delete that object first", m.Subject, other.Manager)
	case !errors.Is(err, meta.ErrNotFound):
		return g, err
	}
	g = domain.ReadonlySuperuser{
		UUID: uuid.NewString(), Subject: m.Subject, Access: m.Access, ExpiresAt: m.ExpiresAt.Truncate(time.Microsecond), Credentials: m.Credentials,
		Manager: m.Manager, CreatedAt: ch.now,
	}
	if g.ID, err = ch.InsertReadonlySuperuser(g); err != nil {
		return g, err
	}
	ch.logGrant(audit.KindGrantReadonly, g, metadata)
	if err := ch.endGrantEpochs(g.Subject); err != nil {
		return g, err
	}
	if err := ch.setCredentials(&g, false, m.TokenID); err != nil {
		return g, err
	}
	return g, ch.UpdateReadonlySuperuser(g)
}

// endGrantEpochs makes void what the subject of a grant was given until now. Who has no account shares an epoch with all
// others who have none.
func (ch *change) endGrantEpochs(s domain.Subject) error {
	ch.identities = true
	if s.Kind != domain.SubjectRegistryUser {
		return ch.EndGrantEpoch()
	}
	a, err := ch.Account(domain.CallerUser, s.Name)
	if errors.Is(err, meta.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return ch.EndEpoch(a.ID)
}

// setCredentials makes the account of a grant that asks for credentials, and takes its credentials from one that does not
// any more. A token that the object has revokes those that are older.
func (ch *change) setCredentials(g *domain.ReadonlySuperuser, before bool, tokenID string) error {
	switch {
	case !g.Credentials && before:
		g.TokenID = ""
		return ch.dropCredentials(*g)
	case !g.Credentials, !g.InForce(ch.now):
		return nil
	}
	a, err := ch.Account(domain.CallerUser, g.Subject.Name)
	switch {
	case errors.Is(err, meta.ErrNotFound):
		return ch.createOwnAccount(*g)
	case err != nil:
		return err
	case a.PasswordHash != "":
		return domain.Errorf(domain.CodeConflict, "user %s has a password; the registry makes credentials only for one who has none: leave out the credentials", a.Name)
	}
	if tokenID == "" || tokenID == g.TokenID {
		return nil
	}
	tokens, err := ch.TokensOfGrant(g.ID)
	if err != nil {
		return err
	}
	kept := slices.IndexFunc(tokens, func(t domain.AccountToken) bool { return t.ID == tokenID })
	if kept < 0 {
		return nil // the status lists the tokens, and the object makes another one
	}
	g.TokenID = tokenID
	return ch.revokeTokens(*g, a, tokens[:kept])
}

// createOwnAccount makes the account of a grant, which goes with it.
func (ch *change) createOwnAccount(g domain.ReadonlySuperuser) error {
	ch.identities = true
	metadata := aboutUser(g.Subject.Name)
	metadata["grant_uuid"] = g.UUID
	ch.log(audit.KindCreateUser, subject{}, metadata)
	_, err := ch.InsertAccount(domain.Account{Kind: domain.CallerUser, Name: g.Subject.Name, GrantID: g.ID, CreatedAt: ch.now}, 0)
	return err
}

// revokeTokens takes tokens of a grant from their account.
func (ch *change) revokeTokens(g domain.ReadonlySuperuser, a domain.Account, tokens []domain.AccountToken) error {
	if len(tokens) == 0 {
		return nil
	}
	ch.identities = true
	for _, t := range tokens {
		ch.log(audit.KindRevokeToken, subject{}, audit.Metadata{"username": a.Name, "app_specific_token": t.ID, "grant_uuid": g.UUID})
		if _, err := ch.DeleteToken(a.ID, t.ID); err != nil {
			return err
		}
	}
	return ch.EndEpoch(a.ID)
}

// dropCredentials takes away the tokens and the account that were made for a grant.
func (ch *change) dropCredentials(g domain.ReadonlySuperuser) error {
	a, err := ch.Account(domain.CallerUser, g.Subject.Name)
	if errors.Is(err, meta.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	tokens, err := ch.TokensOfGrant(g.ID)
	if err != nil {
		return err
	}
	if err := ch.revokeTokens(g, a, tokens); err != nil || a.GrantID != g.ID {
		return err
	}
	ch.identities = true
	metadata := aboutUser(a.Name)
	metadata["grant_uuid"] = g.UUID
	ch.log(audit.KindDeleteUser, subject{}, metadata)
	return ch.DeleteAccount(a.ID)
}

// revokeGrant ends a grant at once, with all that was made for it.
func (ch *change) revokeGrant(g domain.ReadonlySuperuser, metadata audit.Metadata) error {
	if err := ch.RetireManager(g.Manager.UID, ch.now); err != nil {
		return err
	}
	ch.logGrant(audit.KindRevokeReadonly, g, metadata)
	if err := ch.endGrantEpochs(g.Subject); err != nil {
		return err
	}
	if g.Subject.Kind == domain.SubjectRegistryUser {
		if err := ch.dropCredentials(g); err != nil {
			return err
		}
	}
	return ch.Tx.DeleteReadonlySuperuser(g.ID)
}

// grantValues are what entries say of a grant's settings.
func grantValues(prefix string, g domain.ReadonlySuperuser) audit.Metadata {
	metadata := audit.Metadata{prefix + "access": string(g.Access), prefix + "credentials": g.Credentials}
	if !g.ExpiresAt.IsZero() {
		metadata[prefix+"expires_at"] = g.ExpiresAt.UTC().Format(timestamp)
	}
	return metadata
}

// logGrant adds an entry about a grant. The subject's name is a person's perhaps, so it stands as username.
func (ch *change) logGrant(kind audit.Kind, g domain.ReadonlySuperuser, metadata audit.Metadata) {
	maps.Copy(metadata, grantValues("", g))
	metadata["grant_uuid"], metadata["subject_kind"], metadata["username"] = g.UUID, string(g.Subject.Kind), g.Subject.QualifiedName()
	addManager(metadata, &g.Manager)
	ch.log(kind, subject{}, metadata)
}

// DeleteManagedReadonlySuperuser revokes the grant of a Kubernetes object at once. It does nothing for another UID than the
// grant's.
func (c *Core) DeleteManagedReadonlySuperuser(ctx context.Context, caller domain.Caller, cluster string, m domain.ManagedBy) error {
	return writeManaged(ctx, c, caller, cluster, "", grantOf(m), func(ch *change, present *meta.ReadonlySuperuser) error {
		if present == nil || present.Manager.UID != m.UID {
			return nil
		}
		intent := recent(present.DeletionIntent, ch.now)
		return ch.revokeGrant(present.ReadonlySuperuser, appliedBy(intent.User, intent.UserUID))
	})
}

// CreateGrantToken gives the account of a grant another token, of which the SHA-256 is stored. The older ones stay until
// the grant is put with the new one. STALE for another UID than the grant's, CONFLICT for a grant that asks for no
// credentials or has expired.
func (c *Core) CreateGrantToken(ctx context.Context, caller domain.Caller, cluster string, m domain.ManagedBy, hash []byte) (token domain.AccountToken, username string, err error) {
	err = writeManaged(ctx, c, caller, cluster, "", grantOf(m), func(ch *change, g *meta.ReadonlySuperuser) error {
		switch {
		case g == nil:
			return noGrant(m)
		case g.Manager.UID != m.UID:
			return domain.Errorf(domain.CodeStale, "the grant of %s is that of an object with another uid than %s", m, m.UID)
		case !g.Credentials:
			return domain.Errorf(domain.CodeConflict, "%s asks for no credentials", m)
		case !g.InForce(ch.now):
			return domain.Errorf(domain.CodeConflict, "%s expired at %s; give a later time first", m, g.ExpiresAt.UTC().Format(timestamp))
		}
		a, err := account(&ch.Reader, domain.CallerUser, g.Subject.Name)
		if err != nil {
			return err
		}
		tokens, err := ch.TokensOfGrant(g.ID)
		if err != nil {
			return err
		}
		spare := slices.DeleteFunc(slices.Clone(tokens), func(t domain.AccountToken) bool { return t.ID == g.TokenID })
		if len(tokens) >= maxGrantTokens {
			if err := ch.revokeTokens(g.ReadonlySuperuser, a, spare[:1]); err != nil {
				return err
			}
		}
		username = a.Name
		token = domain.AccountToken{ID: uuid.NewString(), AccountID: a.ID, Title: grantToken, GrantID: g.ID, CreatedAt: ch.now}
		ch.identities = true
		ch.log(audit.KindCreateToken, subject{}, audit.Metadata{"username": a.Name, "app_specific_token": token.ID, "app_specific_token_title": token.Title, "grant_uuid": g.UUID})
		return ch.InsertToken(token, hash)
	})
	return token, username, err
}

func noGrant(m domain.ManagedBy) error {
	return domain.Errorf(domain.CodeNotFound, "%s makes nobody a readonly superuser here", m)
}

// ManagedReadonlySuperuser finds the grant of a Kubernetes object; NOT_FOUND if it has none.
func (c *Core) ManagedReadonlySuperuser(ctx context.Context, kind, name string) (status ReadonlySuperuserStatus, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		g, err := r.ManagedReadonlySuperuser(kind, name)
		if errors.Is(err, meta.ErrNotFound) {
			return noGrant(domain.ManagedBy{Kind: kind, Name: name})
		}
		if err == nil {
			status, err = statusOfGrant(r, g.ReadonlySuperuser, c.now())
		}
		return err
	})
	return status, err
}

// ReadonlySuperusers lists all grants with what is known of their subjects, by the names of their objects.
func (c *Core) ReadonlySuperusers(ctx context.Context) (list []ReadonlySuperuserStatus, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		list = nil
		grants, err := r.ReadonlySuperusers()
		for i := 0; i < len(grants) && err == nil; i++ {
			var status ReadonlySuperuserStatus
			status, err = statusOfGrant(r, grants[i].ReadonlySuperuser, c.now())
			list = append(list, status)
		}
		return err
	})
	return list, err
}

func statusOfGrant(r *meta.Reader, g domain.ReadonlySuperuser, now time.Time) (status ReadonlySuperuserStatus, err error) {
	status = ReadonlySuperuserStatus{ReadonlySuperuser: g, Active: g.InForce(now), Resolved: true}
	if g.Subject.Kind != domain.SubjectRegistryUser {
		return status, nil
	}
	a, err := r.Account(domain.CallerUser, g.Subject.Name)
	if errors.Is(err, meta.ErrNotFound) {
		status.Resolved, err = false, nil
	}
	if err != nil {
		return status, err
	}
	status.OwnAccount = a.GrantID == g.ID
	status.Tokens, err = r.TokensOfGrant(g.ID)
	return status, err
}

// Grants lists all grants, expired ones too, for who has to know what callers may do.
func (c *Core) Grants(ctx context.Context) (grants domain.Grants, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		grants = domain.Grants{}
		if grants.Version, err = r.IdentityVersion(); err != nil {
			return err
		}
		if grants.Epoch, err = r.GrantEpoch(); err != nil {
			return err
		}
		list, err := r.ReadonlySuperusers()
		for _, g := range list {
			grants.List = append(grants.List, g.ReadonlySuperuser)
		}
		return err
	})
	return grants, err
}

// TouchReadonlySuperusers records when subjects were seen, by the UUIDs of their grants, without an entry.
func (c *Core) TouchReadonlySuperusers(ctx context.Context, seen map[string]time.Time) error {
	return forClient(c.store.Write(ctx, meta.Scope{Background: true}, func(tx *meta.Tx) error {
		for _, id := range slices.Sorted(maps.Keys(seen)) { // replicas lock the rows in one order
			if err := tx.TouchReadonlySuperuser(id, seen[id]); err != nil {
				return err
			}
		}
		return nil
	}))
}

// ownUser finds a user for a change by the REST API: one that was made for a grant is its Kubernetes object's.
func (ch *change) ownUser(name string) (domain.Account, error) {
	a, err := account(&ch.Reader, domain.CallerUser, name)
	if err != nil || a.GrantID == 0 {
		return a, err
	}
	g, err := ch.ReadonlySuperuserOf(domain.Subject{Kind: domain.SubjectRegistryUser, Name: name})
	if errors.Is(err, meta.ErrNotFound) {
		return a, nil
	}
	if err != nil {
		return a, err
	}
	return a, managedByError("user "+name, g.Manager)
}

// grantLease names who ends expired grants.
const grantLease = "readonly-superusers"

// runGrants ends expired grants until the context ends. An expired grant has no effect from its time on, whether it was
// ended or not; here its entry is written and what was made for it goes.
func (c *Core) runGrants(ctx context.Context) error {
	ticker := time.NewTicker(c.options.ExpirationPoll)
	defer ticker.Stop()
	for {
		if err := c.endGrants(ctx); err != nil && ctx.Err() == nil {
			c.logger.Error("ending expired readonly superusers failed; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (c *Core) endGrants(ctx context.Context) error {
	var due []meta.ReadonlySuperuser
	err := c.read(ctx, func(r *meta.Reader) (err error) {
		due, err = r.EndingReadonlySuperusers(c.now())
		return err
	})
	if err != nil || len(due) == 0 {
		return err
	}
	return c.writeAlways(ctx, domain.System, meta.Scope{Background: true}, func(ch *change) error {
		// An operator's changes of grants come before or after.
		if _, err := ch.Installation(); err != nil {
			return err
		}
		due, err := ch.EndingReadonlySuperusers(ch.now)
		if err != nil {
			return err
		}
		for _, g := range due {
			ch.logGrant(audit.KindExpireReadonly, g.ReadonlySuperuser, audit.Metadata{})
			if err := ch.endGrantEpochs(g.Subject); err != nil {
				return err
			}
			if g.Subject.Kind == domain.SubjectRegistryUser {
				if err := ch.dropCredentials(g.ReadonlySuperuser); err != nil {
					return err
				}
			}
			g.Ended, g.TokenID = true, ""
			if err := ch.UpdateReadonlySuperuser(g.ReadonlySuperuser); err != nil {
				return err
			}
		}
		return nil
	})
}
