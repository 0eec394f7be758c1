-- streamchat.core.append_rule.decide_append, once more: a test compares the two over all small cases.
local function decide(stored_generation, stored_head, stored_held, generation, head, batch, keeps)
  if stored_generation ~= generation then
    return 'lost'
  end
  if stored_head == head and stored_held then
    return 'write'
  end
  if stored_head == head + batch and stored_held == keeps and (batch > 0 or not keeps) then
    return 'recovered'
  end
  return 'lost'
end
