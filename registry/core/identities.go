package core

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
)

// checkEpoch refuses a caller whose account has lost a credential or a right since it was authorised, one without an account
// if a grant has changed since, and a mirror whose sync is over. Of a mirror it returns the UUID.
func checkEpoch(r *meta.Reader, caller domain.Caller) (mirror string, err error) {
	if caller.Kind == domain.CallerMirror {
		mirror, err = r.RunningSync(caller.Account, caller.Epoch)
		if errors.Is(err, meta.ErrNotFound) {
			err = syncOver(caller.Name)
		}
		return mirror, err
	}
	if caller.Account == 0 && caller.Epoch == 0 {
		return "", nil
	}
	var epoch int64
	if caller.Account == 0 {
		epoch, err = r.GrantEpoch()
	} else {
		epoch, err = r.AccountEpoch(caller.Account)
	}
	if errors.Is(err, meta.ErrNotFound) || (err == nil && epoch != caller.Epoch) {
		return "", domain.Errorf(domain.CodeUnauthorized, "the rights of %s have changed; authenticate again", caller.Name)
	}
	return "", err
}

// checkWriter refuses a caller who has no permission to write to a repository.
func (ch *change) checkWriter(repo domain.Repository) error {
	role, err := ch.PermissionRole(repo.ID, ch.caller.Account)
	if err != nil && !errors.Is(err, meta.ErrNotFound) {
		return err
	}
	if role != domain.RepositoryWrite && role != domain.RepositoryAdmin {
		return domain.Errorf(domain.CodeDenied, "%s may not push to %s", ch.caller.Name, repo.Name)
	}
	return nil
}

// grantToCreator makes an account the admin of the repository that it has made, unless its role in the organization
// says as much.
func (ch *change) grantToCreator(repo domain.Repository) error {
	if ch.caller.Account == 0 || ch.caller.Kind == domain.CallerMirror {
		return nil
	}
	role, err := ch.MemberRole(repo.OrganizationID, ch.caller.Account)
	if err != nil && !errors.Is(err, meta.ErrNotFound) {
		return err
	}
	if role == domain.OrganizationAdmin {
		return nil
	}
	return ch.setPermission(repo, domain.Account{ID: ch.caller.Account, Name: ch.caller.Name}, domain.RepositoryAdmin)
}

// account finds an account for a client.
func account(r *meta.Reader, kind domain.CallerKind, name string) (domain.Account, error) {
	a, err := r.Account(kind, name)
	if errors.Is(err, meta.ErrNotFound) {
		err = domain.Errorf(domain.CodeNotFound, "%s %s does not exist", kind, name)
	}
	return a, err
}

// accountNamed finds a user or robot for a client.
func accountNamed(r *meta.Reader, name string) (domain.Account, error) {
	kind, ok := domain.AccountKind(name)
	if !ok {
		return domain.Account{}, domain.Errorf(domain.CodeInvalid, "%q is the name of neither a user nor a robot (organization+name)", name)
	}
	return account(r, kind, name)
}

// IdentityChanges counts the changes of identities that this process has committed. It costs nothing.
func (c *Core) IdentityChanges() int64 { return c.identityChanges.Load() }

// IdentityVersion reads the number that grows with each change of an identity, by whichever process.
func (c *Core) IdentityVersion(ctx context.Context) (version int64, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		version, err = r.IdentityVersion()
		return err
	})
	return version, err
}

// PrincipalByName finds an account that is not disabled with its rights, and the version of identities that they are of;
// NOT_FOUND if there is none.
func (c *Core) PrincipalByName(ctx context.Context, kind domain.CallerKind, name string) (domain.Principal, int64, error) {
	return c.principal(ctx, func(r *meta.Reader) (p domain.Principal, err error) {
		p.Account, err = r.Account(kind, name)
		return p, err
	})
}

// PrincipalByID is PrincipalByName for an account's id.
func (c *Core) PrincipalByID(ctx context.Context, id int64) (domain.Principal, int64, error) {
	return c.principal(ctx, func(r *meta.Reader) (p domain.Principal, err error) {
		p.Account, err = r.AccountByID(id)
		return p, err
	})
}

// PrincipalByToken is PrincipalByName for the SHA-256 of a token.
func (c *Core) PrincipalByToken(ctx context.Context, hash []byte) (domain.Principal, int64, error) {
	return c.principal(ctx, func(r *meta.Reader) (p domain.Principal, err error) {
		var token domain.AccountToken
		p.Account, token, err = r.AccountByToken(hash)
		p.TokenID, p.Grant = token.ID, token.GrantID
		return p, err
	})
}

func (c *Core) principal(ctx context.Context, find func(*meta.Reader) (domain.Principal, error)) (p domain.Principal, version int64, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		if version, err = r.IdentityVersion(); err != nil {
			return err
		}
		if p, err = find(r); errors.Is(err, meta.ErrNotFound) || (err == nil && p.Disabled) {
			return domain.Errorf(domain.CodeNotFound, "there is no such account")
		}
		if err != nil {
			return err
		}
		p.Grant = max(p.Grant, p.GrantID)
		p.Rights, err = r.Rights(p.ID)
		return err
	})
	return p, version, err
}

// NewUser describes a user to create.
type NewUser struct {
	Name, Email string
	// PasswordHash is in the PHC string format; empty: no password.
	PasswordHash string
}

// UserChange changes the fields that are not nil.
type UserChange struct {
	Email        *string
	PasswordHash *string
	Disabled     *bool
}

// aboutUser is the metadata of an entry about an account.
func aboutUser(name string) audit.Metadata { return audit.Metadata{"username": name} }

// CreateUser makes a user; CONFLICT if there is one of this name.
func (c *Core) CreateUser(ctx context.Context, caller domain.Caller, user NewUser) error {
	if err := domain.ValidateUser(user.Name); err != nil {
		return err
	}
	return c.write(ctx, caller, meta.Scope{}, func(ch *change) error {
		switch _, err := ch.Account(domain.CallerUser, user.Name); {
		case err == nil:
			return domain.Errorf(domain.CodeConflict, "user %s exists already", user.Name)
		case !errors.Is(err, meta.ErrNotFound):
			return err
		}
		ch.identities = true
		ch.log(audit.KindCreateUser, subject{}, aboutUser(user.Name))
		_, err := ch.InsertAccount(domain.Account{
			Kind: domain.CallerUser, Name: user.Name, Email: user.Email, PasswordHash: user.PasswordHash, CreatedAt: ch.now,
		}, 0)
		return err
	})
}

// UpdateUser changes a user. A new password, and disabling, end the user's epoch.
func (c *Core) UpdateUser(ctx context.Context, caller domain.Caller, name string, to UserChange) error {
	return c.write(ctx, caller, meta.Scope{}, func(ch *change) error {
		a, err := ch.ownUser(name)
		if err != nil {
			return err
		}
		ended := false
		if to.Email != nil && *to.Email != a.Email {
			a.Email = *to.Email
			ch.log(audit.KindChangeEmail, subject{}, aboutUser(name))
		}
		if to.PasswordHash != nil {
			a.PasswordHash, ended = *to.PasswordHash, true
			ch.log(audit.KindChangePassword, subject{}, aboutUser(name))
		}
		if to.Disabled != nil && *to.Disabled != a.Disabled {
			a.Disabled, ended = *to.Disabled, true
			kind := audit.KindEnableUser
			if a.Disabled {
				kind = audit.KindDisableUser
			}
			ch.log(kind, subject{}, aboutUser(name))
		}
		ch.identities = true
		if ended {
			if err := ch.EndEpoch(a.ID); err != nil {
				return err
			}
		}
		return ch.UpdateAccount(a)
	})
}

// DeleteUser removes a user with tokens, memberships and permissions.
func (c *Core) DeleteUser(ctx context.Context, caller domain.Caller, name string) error {
	return c.write(ctx, caller, meta.Scope{}, func(ch *change) error {
		a, err := ch.ownUser(name)
		if err != nil {
			return err
		}
		ch.identities = true
		ch.log(audit.KindDeleteUser, subject{}, aboutUser(name))
		return ch.DeleteAccount(a.ID)
	})
}

// User finds a user; NOT_FOUND if there is none.
func (c *Core) User(ctx context.Context, name string) (a domain.Account, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		a, err = account(r, domain.CallerUser, name)
		return err
	})
	return a, err
}

// Users lists users by name, those behind after.
func (c *Core) Users(ctx context.Context, after string, limit int) (list []domain.Account, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		list, err = r.Users(after, limit)
		return err
	})
	return list, err
}

// maxTokens bounds the tokens of a user.
const maxTokens = 100

// CreateToken gives a user another token, of which the SHA-256 is stored.
func (c *Core) CreateToken(ctx context.Context, caller domain.Caller, user, title string, hash []byte) (token domain.AccountToken, err error) {
	err = c.write(ctx, caller, meta.Scope{}, func(ch *change) error {
		a, err := account(&ch.Reader, domain.CallerUser, user)
		if err != nil {
			return err
		}
		tokens, err := ch.Tokens(a.ID)
		if err != nil {
			return err
		}
		if len(tokens) >= maxTokens {
			return domain.Errorf(domain.CodeConflict, "user %s has %d tokens, which is the most; revoke some first", user, len(tokens))
		}
		token = domain.AccountToken{ID: uuid.NewString(), AccountID: a.ID, Title: title, CreatedAt: ch.now}
		ch.identities = true
		ch.log(audit.KindCreateToken, subject{}, audit.Metadata{"username": user, "app_specific_token": token.ID, "app_specific_token_title": title})
		return ch.InsertToken(token, hash)
	})
	return token, err
}

// RevokeToken takes a token from a user and ends the user's epoch: what was granted to the token is void.
func (c *Core) RevokeToken(ctx context.Context, caller domain.Caller, user, id string) error {
	return c.write(ctx, caller, meta.Scope{}, func(ch *change) error {
		a, err := account(&ch.Reader, domain.CallerUser, user)
		if err != nil {
			return err
		}
		found, err := ch.DeleteToken(a.ID, id)
		if err != nil {
			return err
		}
		if !found {
			return domain.Errorf(domain.CodeNotFound, "user %s has no token %s", user, id)
		}
		ch.identities = true
		ch.log(audit.KindRevokeToken, subject{}, audit.Metadata{"username": user, "app_specific_token": id})
		return ch.EndEpoch(a.ID)
	})
}

// Tokens lists a user's tokens, the oldest first.
func (c *Core) Tokens(ctx context.Context, user string) (list []domain.AccountToken, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		a, err := account(r, domain.CallerUser, user)
		if err != nil {
			return err
		}
		list, err = r.Tokens(a.ID)
		return err
	})
	return list, err
}

// TouchTokens records when tokens were used, without an entry.
func (c *Core) TouchTokens(ctx context.Context, used map[string]time.Time) error {
	return forClient(c.store.Write(ctx, meta.Scope{Background: true}, func(tx *meta.Tx) error {
		for id, at := range used {
			if err := tx.TouchToken(id, at); err != nil {
				return err
			}
		}
		return nil
	}))
}

// SigningKeys lists the keys that sign tokens for clients, the newest first.
func (c *Core) SigningKeys(ctx context.Context) (list []domain.SigningKey, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		list, err = r.SigningKeys()
		return err
	})
	return list, err
}

// AddSigningKey stores a key, unless there is one that was made after the given time, and removes the keys that were
// replaced before another. Of several replicas that find the key too old, one makes the next.
func (c *Core) AddSigningKey(ctx context.Context, caller domain.Caller, key domain.SigningKey, unlessAfter, replacedBefore time.Time) error {
	return c.writeAlways(ctx, caller, meta.Scope{}, func(ch *change) error {
		// The first statement writes, so that replicas come one after the other.
		if err := ch.BumpIdentityVersion(); err != nil {
			return err
		}
		keys, err := ch.SigningKeys()
		if err != nil {
			return err
		}
		if len(keys) > 0 && keys[0].CreatedAt.After(unlessAfter) {
			return nil
		}
		for i, old := range keys {
			// A key is replaced when the next one is made.
			if i > 0 && keys[i-1].CreatedAt.Before(replacedBefore) {
				if err := ch.deleteSigningKey(old.ID); err != nil {
					return err
				}
			}
		}
		key.CreatedAt = ch.now
		ch.identities = true
		ch.log(audit.KindCreateSigningKey, subject{}, audit.Metadata{"key_id": key.ID})
		return ch.InsertSigningKey(key)
	})
}

func (ch *change) deleteSigningKey(id string) error {
	found, err := ch.DeleteSigningKey(id)
	if err == nil && !found {
		err = domain.Errorf(domain.CodeNotFound, "there is no signing key %s", id)
	}
	if err == nil {
		ch.log(audit.KindDeleteSigningKey, subject{}, audit.Metadata{"key_id": id})
	}
	return err
}

// DeleteSigningKey removes a key: every token that it signed is void.
func (c *Core) DeleteSigningKey(ctx context.Context, caller domain.Caller, id string) error {
	return c.writeAlways(ctx, caller, meta.Scope{}, func(ch *change) error {
		ch.identities = true
		return ch.deleteSigningKey(id)
	})
}

// exclusive is the scope of changes of who may do what in an organization, and of its mirror and the beginning and end of the
// mirror's syncs: pushes there come before or after.
func exclusive(organization string) meta.Scope {
	return meta.Scope{Organization: organization, OrganizationExclusive: true}
}

// NewRobot describes a robot to create.
type NewRobot struct {
	Organization, Short string
	Description         string
	// Metadata is a JSON object, or empty.
	Metadata string
}

// robotToken is the title of a robot's one token.
const robotToken = "robot"

// CreateRobot makes an organization's robot with a token, of which the SHA-256 is stored; CONFLICT if there is one of
// this name.
func (c *Core) CreateRobot(ctx context.Context, caller domain.Caller, robot NewRobot, hash []byte) (a domain.Account, err error) {
	name, err := domain.RobotName(robot.Organization, robot.Short)
	if err != nil {
		return a, err
	}
	err = c.write(ctx, caller, exclusive(robot.Organization), func(ch *change) error {
		o, err := organization(&ch.Reader, robot.Organization)
		if err != nil {
			return err
		}
		switch _, err := ch.Account(domain.CallerRobot, name); {
		case err == nil:
			return domain.Errorf(domain.CodeConflict, "robot %s exists already", name)
		case !errors.Is(err, meta.ErrNotFound):
			return err
		}
		a = domain.Account{
			Kind: domain.CallerRobot, Name: name, Organization: o.Name, Description: robot.Description, Metadata: robot.Metadata, Epoch: 1, CreatedAt: ch.now,
		}
		if a.ID, err = ch.InsertAccount(a, o.ID); err != nil {
			return err
		}
		ch.identities = true
		ch.log(audit.KindCreateRobot, subject{organization: o.Name}, audit.Metadata{"robot": name, "description": robot.Description})
		return ch.InsertToken(domain.AccountToken{ID: uuid.NewString(), AccountID: a.ID, Title: robotToken, CreatedAt: ch.now}, hash)
	})
	return a, err
}

// RegenerateRobot replaces a robot's token and ends its epoch.
func (c *Core) RegenerateRobot(ctx context.Context, caller domain.Caller, organization, short string, hash []byte) (a domain.Account, err error) {
	err = c.changeRobot(ctx, caller, organization, short, func(ch *change, robot domain.Account) error {
		a = robot
		ch.log(audit.KindRegenerateRobot, subject{organization: organization}, audit.Metadata{"robot": robot.Name})
		if err := errors.Join(ch.DeleteTokens(robot.ID), ch.EndEpoch(robot.ID)); err != nil {
			return err
		}
		return ch.InsertToken(domain.AccountToken{ID: uuid.NewString(), AccountID: robot.ID, Title: robotToken, CreatedAt: ch.now}, hash)
	})
	return a, err
}

// DeleteRobot removes a robot with its token and permissions. CONFLICT while the organization's mirror names it: the mirror
// would go on without it, and nobody would be told.
func (c *Core) DeleteRobot(ctx context.Context, caller domain.Caller, organization, short string) error {
	return c.changeRobot(ctx, caller, organization, short, func(ch *change, robot domain.Account) error {
		switch m, err := ch.Mirror(organization); {
		case err == nil && m.Robot == robot.Name:
			return domain.Errorf(domain.CodeConflict, "robot %s is that of the organization's mirror of %s; give the mirror another robot, or delete it, first", robot.Name, m.Source.URL)
		case err != nil && !errors.Is(err, meta.ErrNotFound):
			return err
		}
		ch.log(audit.KindDeleteRobot, subject{organization: organization}, audit.Metadata{"robot": robot.Name})
		return ch.DeleteAccount(robot.ID)
	})
}

func (c *Core) changeRobot(ctx context.Context, caller domain.Caller, organization, short string, fn func(*change, domain.Account) error) error {
	name, err := domain.RobotName(organization, short)
	if err != nil {
		return err
	}
	return c.write(ctx, caller, exclusive(organization), func(ch *change) error {
		robot, err := account(&ch.Reader, domain.CallerRobot, name)
		if err != nil {
			return err
		}
		ch.identities = true
		return fn(ch, robot)
	})
}

// Robot finds an organization's robot; NOT_FOUND if there is none.
func (c *Core) Robot(ctx context.Context, organization, short string) (a domain.Account, err error) {
	name, err := domain.RobotName(organization, short)
	if err != nil {
		return a, err
	}
	err = c.read(ctx, func(r *meta.Reader) error {
		a, err = account(r, domain.CallerRobot, name)
		return err
	})
	return a, err
}

// Robots lists an organization's robots by name.
func (c *Core) Robots(ctx context.Context, name string) (list []domain.Account, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		o, err := organization(r, name)
		if err != nil {
			return err
		}
		list, err = r.Robots(o.ID)
		return err
	})
	return list, err
}

// belongs refuses robots of other organizations.
func belongs(a domain.Account, organization string) error {
	if a.Kind == domain.CallerRobot && a.Organization != organization {
		return domain.Errorf(domain.CodeInvalid, "robot %s belongs to another organization than %s", a.Name, organization)
	}
	return nil
}

// SetMember makes an account a member of an organization, or gives it another role there.
func (c *Core) SetMember(ctx context.Context, caller domain.Caller, organizationName, name string, role domain.OrganizationRole) (m domain.Member, err error) {
	err = c.write(ctx, caller, exclusive(organizationName), func(ch *change) error {
		o, a, old, err := member(&ch.Reader, organizationName, name)
		if err == nil {
			err = belongs(a, o.Name)
		}
		if err != nil {
			return err
		}
		m = domain.Member{Kind: a.Kind, Name: a.Name, Role: role}
		if old == role {
			return nil
		}
		kind := audit.KindAddMember
		if old != "" {
			kind = audit.KindChangeMember
			if err := ch.EndEpoch(a.ID); err != nil {
				return err
			}
		}
		ch.identities = true
		ch.log(kind, subject{organization: o.Name}, audit.Metadata{"username": a.Name, "role": string(role)})
		return ch.Tx.SetMember(o.ID, a.ID, role, ch.now)
	})
	return m, err
}

// member finds an organization, an account, and the account's role there, empty if it is no member.
func member(r *meta.Reader, organizationName, name string) (o domain.Organization, a domain.Account, role domain.OrganizationRole, err error) {
	if o, err = organization(r, organizationName); err != nil {
		return o, a, "", err
	}
	if a, err = accountNamed(r, name); err != nil {
		return o, a, "", err
	}
	role, err = r.MemberRole(o.ID, a.ID)
	if errors.Is(err, meta.ErrNotFound) {
		err = nil
	}
	return o, a, role, err
}

func notMember(organization, name string) error {
	return domain.Errorf(domain.CodeNotFound, "%s is not a member of %s", name, organization)
}

// RemoveMember removes an account from an organization, with its permissions on the repositories there.
func (c *Core) RemoveMember(ctx context.Context, caller domain.Caller, organizationName, name string) error {
	return c.write(ctx, caller, exclusive(organizationName), func(ch *change) error {
		o, a, role, err := member(&ch.Reader, organizationName, name)
		if err != nil {
			return err
		}
		if role == "" {
			return notMember(o.Name, name)
		}
		ch.identities = true
		ch.log(audit.KindRemoveMember, subject{organization: o.Name}, audit.Metadata{"username": a.Name, "role": string(role)})
		return errors.Join(ch.EndEpoch(a.ID), ch.DeletePermissionsInOrganization(o.ID, a.ID), ch.DeleteMember(o.ID, a.ID))
	})
}

// Member finds a member of an organization; NOT_FOUND if there is none of this name.
func (c *Core) Member(ctx context.Context, organizationName, name string) (m domain.Member, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		o, a, role, err := member(r, organizationName, name)
		if err != nil {
			return err
		}
		if role == "" {
			return notMember(o.Name, name)
		}
		m = domain.Member{Kind: a.Kind, Name: a.Name, Role: role}
		return nil
	})
	return m, err
}

// Members lists an organization's members by name.
func (c *Core) Members(ctx context.Context, name string) (list []domain.Member, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		o, err := organization(r, name)
		if err != nil {
			return err
		}
		list, err = r.Members(o.ID)
		return err
	})
	return list, err
}

// SetPermission gives an account a permission on a repository, in place of the one that it has.
func (c *Core) SetPermission(ctx context.Context, caller domain.Caller, name domain.RepositoryName, who string, role domain.RepositoryRole) (p domain.Permission, err error) {
	err = c.write(ctx, caller, exclusive(name.Organization), func(ch *change) error {
		repo, a, err := permitted(&ch.Reader, name, who)
		if err == nil {
			err = belongs(a, name.Organization)
		}
		if err == nil {
			err = ch.setPermission(repo, a, role)
		}
		if err == nil {
			p, err = permission(&ch.Reader, repo, a)
		}
		return err
	})
	return p, err
}

func (ch *change) setPermission(repo domain.Repository, a domain.Account, role domain.RepositoryRole) error {
	old, err := ch.PermissionRole(repo.ID, a.ID)
	if err != nil && !errors.Is(err, meta.ErrNotFound) {
		return err
	}
	if old == role {
		return nil
	}
	kind := audit.KindAddPermission
	if old != "" {
		kind = audit.KindChangePermission
		if err := ch.EndEpoch(a.ID); err != nil {
			return err
		}
	}
	ch.identities = true
	ch.log(kind, aboutTag(repo.Name, ""), audit.Metadata{"username": a.Name, "role": string(role)})
	return ch.Tx.SetPermission(repo.ID, a.ID, role, ch.now)
}

// permitted finds a repository and an account.
func permitted(r *meta.Reader, name domain.RepositoryName, who string) (repo domain.Repository, a domain.Account, err error) {
	if repo, err = repository(r, name); err == nil {
		a, err = accountNamed(r, who)
	}
	return repo, a, err
}

// permission finds an account's permission on a repository; NOT_FOUND if it has none.
func permission(r *meta.Reader, repo domain.Repository, a domain.Account) (domain.Permission, error) {
	p := domain.Permission{Kind: a.Kind, Name: a.Name}
	var err error
	if p.Role, err = r.PermissionRole(repo.ID, a.ID); errors.Is(err, meta.ErrNotFound) {
		return p, domain.Errorf(domain.CodeNotFound, "%s has no permission on %s", a.Name, repo.Name)
	}
	if err != nil {
		return p, err
	}
	_, err = r.MemberRole(repo.OrganizationID, a.ID)
	p.Member = a.Organization != "" || err == nil
	if errors.Is(err, meta.ErrNotFound) {
		err = nil
	}
	return p, err
}

// RemovePermission takes an account's permission on a repository.
func (c *Core) RemovePermission(ctx context.Context, caller domain.Caller, name domain.RepositoryName, who string) error {
	return c.write(ctx, caller, exclusive(name.Organization), func(ch *change) error {
		repo, a, err := permitted(&ch.Reader, name, who)
		if err != nil {
			return err
		}
		p, err := permission(&ch.Reader, repo, a)
		if err != nil {
			return err
		}
		ch.identities = true
		ch.log(audit.KindDeletePermission, aboutTag(name, ""), audit.Metadata{"username": a.Name, "role": string(p.Role)})
		return errors.Join(ch.EndEpoch(a.ID), ch.DeletePermission(repo.ID, a.ID))
	})
}

// Permission finds an account's permission on a repository; NOT_FOUND if it has none.
func (c *Core) Permission(ctx context.Context, name domain.RepositoryName, who string) (p domain.Permission, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		repo, a, err := permitted(r, name, who)
		if err == nil {
			p, err = permission(r, repo, a)
		}
		return err
	})
	return p, err
}

// Permissions lists the permissions on a repository by the accounts' names.
func (c *Core) Permissions(ctx context.Context, name domain.RepositoryName) (list []domain.Permission, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		repo, err := repository(r, name)
		if err != nil {
			return err
		}
		list, err = r.Permissions(repo.ID)
		return err
	})
	return list, err
}
