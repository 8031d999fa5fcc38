package auth

// Permissions lists the permissions that the table has a row for.
func Permissions() []Permission {
	var list []Permission
	for permission := range table {
		list = append(list, permission)
	}
	return list
}
