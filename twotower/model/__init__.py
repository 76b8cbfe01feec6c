"""What CLIP is: configurations, towers, weights. Needs torch, except config and pickles."""
