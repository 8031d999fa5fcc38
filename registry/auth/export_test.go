package auth

import "context"

// Permissions lists the permissions that the table has a row for.
func Permissions() []Permission {
	var list []Permission
	for permission := range table {
		list = append(list, permission)
	}
	return list
}

// WriteUses writes the last uses of tokens, as Run does once a minute.
func (a *Authenticator) WriteUses(ctx context.Context) error { return a.uses.write(ctx) }

// ParseScopes reads scopes.
func ParseScopes(texts []string) []Access { return parseScopes(texts) }

// FormatScopes writes scopes.
func FormatScopes(list []Access) string { return formatScopes(list) }

// ParseKeyFile reads the private keys of a file, and counts them.
func ParseKeyFile(content []byte) (int, error) {
	keys, err := parseKeyFile(content)
	return len(keys), err
}

// Rank says what the configuration and the grants make of a caller.
func (a *Authenticator) Rank(ctx context.Context, id Identity) (Identity, error) {
	return a.rank(ctx, id)
}
