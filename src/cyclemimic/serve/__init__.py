"""Station 4: a policy behind a websocket. Imports no torch; the policy is handed in."""
