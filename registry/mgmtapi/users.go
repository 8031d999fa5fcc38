package mgmtapi

import (
	"maps"
	"slices"

	"github.com/tidelock/tidelock/registry/auth"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

// userPage is how many users a page has at most.
const userPage = 100

func (a *API) getOwnUser(c *call) (answer, error) {
	view := openapi.OwnUser{
		Username: c.identity.Name, IsMe: true, IsRobot: c.identity.Kind == domain.CallerRobot,
		SuperUser: c.identity.Holds(auth.UserManage, auth.Resource{}), GlobalReadonlySuperUser: c.identity.Readonly != "",
		Organizations: []openapi.OwnOrganization{},
	}
	if view.GlobalReadonlySuperUser {
		view.ReadonlyAccess = &c.identity.Readonly
	}
	if c.identity.Account != 0 && !view.IsRobot {
		user, err := a.core.User(c.Context(), c.identity.Name)
		if err != nil {
			return answer{}, err
		}
		view.Email = user.Email
	}
	for _, name := range slices.Sorted(maps.Keys(c.identity.Rights.Organizations)) {
		on := auth.Organization(name)
		role := c.identity.Rights.Organizations[name]
		if view.GlobalReadonlySuperUser {
			role = domain.OrganizationMember // what the others would let it do, it may not
		}
		view.Organizations = append(view.Organizations, openapi.OwnOrganization{
			Name: name, Role: role,
			IsOrgAdmin: c.identity.Holds(auth.OrganizationAdmin, on), CanCreateRepo: c.identity.Holds(auth.RepositoryCreate, on),
		})
	}
	return ok(view), nil
}

func (a *API) changeOwnUser(c *call) (answer, error) {
	body, err := readBody[openapi.OwnUserChange](c)
	if err != nil {
		return answer{}, err
	}
	hash, err := hashPassword(string(body.Password))
	if err != nil {
		return answer{}, err
	}
	if err := a.core.UpdateUser(c.Context(), c.identity.Caller, c.identity.Name, core.UserChange{PasswordHash: &hash}); err != nil {
		return answer{}, err
	}
	return a.getOwnUser(c)
}

// hashPassword checks a new password and makes what is stored of it.
func hashPassword(password string) (string, error) {
	if err := domain.ValidatePassword(password); err != nil {
		return "", badField("password", "%w", err)
	}
	return auth.HashPassword(password)
}

// ownTokens are the caller's; who has no account here has none.
func (a *API) ownTokens(c *call) ([]domain.AccountToken, error) {
	if c.identity.Account == 0 || c.identity.Kind != domain.CallerUser {
		return nil, nil
	}
	return a.core.Tokens(c.Context(), c.identity.Name)
}

func (a *API) listAppTokens(c *call) (answer, error) {
	tokens, err := a.ownTokens(c)
	if err != nil {
		return answer{}, err
	}
	list := openapi.AppTokenList{Tokens: []openapi.AppToken{}}
	for _, token := range tokens {
		list.Tokens = append(list.Tokens, viewAppToken(token, ""))
	}
	return ok(list), nil
}

func (a *API) createAppToken(c *call) (answer, error) {
	body, err := readBody[openapi.NewAppToken](c)
	if err != nil {
		return answer{}, err
	}
	if err := needed(field{"title", body.Title}); err != nil {
		return answer{}, err
	}
	if err := checkText("title", body.Title); err != nil {
		return answer{}, err
	}
	secret, hash := auth.NewSecret()
	token, err := a.core.CreateToken(c.Context(), c.identity.Caller, c.identity.Name, body.Title, hash)
	return ok(openapi.AppTokenAnswer{Token: viewAppToken(token, secret)}), err
}

func (a *API) getAppToken(c *call) (answer, error) {
	tokens, err := a.ownTokens(c)
	if err != nil {
		return answer{}, err
	}
	i := slices.IndexFunc(tokens, func(t domain.AccountToken) bool { return t.ID == c.parameters["uuid"] })
	if i < 0 {
		return answer{}, domain.Errorf(domain.CodeNotFound, "you have no token %s", c.parameters["uuid"])
	}
	return ok(openapi.AppTokenAnswer{Token: viewAppToken(tokens[i], "")}), nil
}

func (a *API) revokeAppToken(c *call) (answer, error) {
	return noContent, a.core.RevokeToken(c.Context(), c.identity.Caller, c.identity.Name, c.parameters["uuid"])
}

// viewAppToken shows a token with its secret where that was just made.
func viewAppToken(token domain.AccountToken, secret string) openapi.AppToken {
	return openapi.AppToken{
		UUID: token.ID, Title: token.Title, Created: rfc2822(token.CreatedAt), LastAccessed: orNever(token.LastUsed), TokenCode: domain.NewSecret(secret),
	}
}

func (a *API) listUsers(c *call) (answer, error) {
	limit, err := c.query.number("limit", userPage, 1, userPage)
	if err != nil {
		return answer{}, err
	}
	disabled, err := c.query.boolean("disabled", true)
	if err != nil {
		return answer{}, err
	}
	// One more than a page tells whether there is another.
	users, err := a.core.Users(c.Context(), c.query.text("next_page"), int(limit)+1)
	if err != nil {
		return answer{}, err
	}
	list := openapi.UserList{Users: []openapi.User{}}
	if len(users) > int(limit) {
		users = users[:limit]
		list.NextPage = users[limit-1].Name
	}
	for _, user := range users {
		if disabled || !user.Disabled {
			list.Users = append(list.Users, viewUser(user))
		}
	}
	return ok(list), nil
}

func (a *API) createUser(c *call) (answer, error) {
	body, err := readBody[openapi.NewUser](c)
	if err != nil {
		return answer{}, err
	}
	if err := checkText("email", body.Email); err != nil {
		return answer{}, err
	}
	password, made := string(body.Password), ""
	if password == "" {
		made, _ = auth.NewSecret()
		password = made
	}
	hash, err := hashPassword(password)
	if err != nil {
		return answer{}, err
	}
	user := core.NewUser{Name: body.Username, Email: body.Email, PasswordHash: hash}
	if err := a.core.CreateUser(c.Context(), c.identity.Caller, user); err != nil {
		return answer{}, asQuay(err)
	}
	return ok(openapi.UserCreated{Username: body.Username, Email: body.Email, Password: domain.NewSecret(made)}), nil
}

func (a *API) getUser(c *call) (answer, error) {
	user, err := a.core.User(c.Context(), c.parameters["user"])
	return ok(viewUser(user)), err
}

func (a *API) updateUser(c *call) (answer, error) {
	body, err := readBody[openapi.UserChange](c)
	if err != nil {
		return answer{}, err
	}
	change := core.UserChange{Email: body.Email}
	if body.Email != nil {
		if err := checkText("email", *body.Email); err != nil {
			return answer{}, err
		}
	}
	if body.Password != nil && *body.Password != domain.Redacted {
		hash, err := hashPassword(string(*body.Password))
		if err != nil {
			return answer{}, err
		}
		change.PasswordHash = &hash
	}
	if body.Enabled != nil {
		disabled := !*body.Enabled
		change.Disabled = &disabled
	}
	if err := a.core.UpdateUser(c.Context(), c.identity.Caller, c.parameters["user"], change); err != nil {
		return answer{}, err
	}
	return a.getUser(c)
}

func (a *API) deleteUser(c *call) (answer, error) {
	return noContent, a.core.DeleteUser(c.Context(), c.identity.Caller, c.parameters["user"])
}

func viewUser(user domain.Account) openapi.User {
	return openapi.User{
		Kind: kindUser, Name: user.Name, Username: user.Name, Email: user.Email, Enabled: !user.Disabled,
		Created: rfc2822(user.CreatedAt), LastAccessed: orNever(user.LastUsed),
	}
}

func (a *API) listSigningKeys(c *call) (answer, error) {
	keys, err := a.authenticator.SigningKeys(c.Context())
	if err != nil {
		return answer{}, err
	}
	list := openapi.SigningKeyList{Keys: []openapi.SigningKey{}}
	for _, key := range keys {
		view := openapi.SigningKey{Kid: key.ID, PrivateKey: domain.Redacted}
		if !key.CreatedAt.IsZero() {
			view.Created = rfc2822(key.CreatedAt)
		}
		list.Keys = append(list.Keys, view)
	}
	return ok(list), nil
}

func (a *API) rotateSigningKey(c *call) (answer, error) {
	if err := a.authenticator.RotateSigningKey(c.Context(), c.identity.Caller); err != nil {
		return answer{}, err
	}
	return a.listSigningKeys(c)
}

func (a *API) deleteSigningKey(c *call) (answer, error) {
	return noContent, a.core.DeleteSigningKey(c.Context(), c.identity.Caller, c.parameters["key"])
}
